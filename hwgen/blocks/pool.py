"""Maximum and average over sliding windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from amaranth.hdl import Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring

from hwgen.blocks.base import OpConfig, Schedule
from hwgen.blocks.output import output_queue
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.device.arithmetic import counter, levels
from hwgen.device.cost import Area, logic
from hwgen.ir import AveragePool, MaxPool
from hwgen.parts.component import Configured
from hwgen.parts.queue import QUEUE_LATENCY
from hwgen.parts.requantise import Requantiser, RequantiserConfig, lane_requantiser
from hwgen.parts.window import READ_LATENCY, SlidingWindow, SlidingWindowConfig

__all__ = ["Pool", "PoolConfig"]


@dataclass(frozen=True, kw_only=True)
class PoolConfig(OpConfig):
    """A pooling layer and its folding.

    Parameters
    ----------
    op : :class:`hwgen.ir.MaxPool` or :class:`hwgen.ir.AveragePool`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Channels per beat, at both ports, which are computed in parallel.
    tap_lanes : :class:`int`
        Pixels of a window in parallel.
    capacity : :class:`int`
        Number of pixels in the window's buffer; 0: the fewest with which it works.
    window_style : :class:`str`
        Style of the memory of the window's buffer.
    multiplier : :class:`str`
        Multiplier that scales an average, one of :data:`hwgen.device.multiplier.MULTIPLIERS`.
    """

    large: ClassVar[bool] = True

    kind: ClassVar[str] = "pool"

    op: MaxPool | AveragePool
    tap_lanes: int = 1
    capacity: int = 0
    window_style: str = ""
    multiplier: str = "dsp48e2"

    def __post_init__(self) -> None:
        _ = self.window, self.outputs

    @property
    def folding_fields(self) -> tuple[str, ...]:
        # A maximum is not scaled.
        return tuple(name for name in super().folding_fields
                     if name != "multiplier" or isinstance(self.op, AveragePool))

    @property
    def counts(self) -> bool:
        """Whether an average is only over those pixels of a window that lie in the frame."""
        return isinstance(self.op, AveragePool) and not self.op.count_include_pad

    @cached_property
    def window(self) -> SlidingWindowConfig:
        """The sliding window in front of the reduction."""
        quantisation = self.tensor.quantisation
        largest = isinstance(self.op, MaxPool)
        return SlidingWindowConfig(
            input=self.inputs[0],
            window=self.op.window,
            fill=quantisation.low if largest else quantisation.zero_point,
            show_inside=self.counts,
            word_lanes=self.lanes,
            groups=self.tensor.channels // self.lanes,
            tap_lanes=self.tap_lanes,
            capacity=self.capacity,
            style=self.window_style,
        )

    @cached_property
    def requantiser(self) -> RequantiserConfig | None:
        """The requantisers of an average, with a set of parameters for each count of pixels.

        There is one set if pixels are not counted.  A maximum has no requantisers: None.
        """
        if isinstance(self.op, MaxPool):
            return None
        # Padding reads the zero point, and so do the taps that fill the last fold.
        taps_read = self.window.tap_folds * self.tap_lanes
        entry = np.maximum(np.arange(self.window.window.taps + 1) - 1, 0) if self.counts else [0]
        return lane_requantiser(
            self.op.requantise, self.op.output, lanes=self.lanes, multiplier=self.multiplier,
            bias=-taps_read * self.tensor.zero_point, entry=entry,
            acc_range=(-taps_read << self.tensor.bits, taps_read << self.tensor.bits),
        )

    @property
    def tree_levels(self) -> int:
        """Number of registered levels in the reduction over parallel taps."""
        return math.ceil(math.log2(self.tap_lanes)) if self.tap_lanes > 1 else 0

    @property
    def result_latency(self) -> int:
        """Cycles from a window's last beat to the push of its result."""
        extra = self.requantiser.latency if self.requantiser else 0
        return 1 + self.tree_levels + 1 + extra

    @property
    def interval(self) -> int:
        return self.window.interval

    @property
    def least_depths(self) -> tuple[int, ...]:
        claim = READ_LATENCY + self.window.steps - 1 + self.result_latency + QUEUE_LATENCY
        return (math.ceil((claim + 1) / self.window.fold_cycles) + 1,)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        window = self.window.schedule(arrivals[0])
        fold = np.arange(self.window.groups) * self.window.fold_cycles
        claims = (window.starts[:, None] + fold).ravel()
        delay = READ_LATENCY + self.window.steps - 1 + self.result_latency + QUEUE_LATENCY
        return Schedule((window.accepts,), (claims + delay,), (claims,), window.capacity)

    def area(self) -> Area:
        width = self.tensor.bits if self.requantiser is None else self.requantiser.acc_bits
        maximum = self.requantiser is None
        out = self.window.area(1) + self.queues_area()
        bits, lanes, taps = self.tensor.bits, self.lanes, self.tap_lanes
        out += logic(
            "pool", one=1, ff_flags=self.tree_levels + 2, steps=levels(self.window.steps),
            ff_register=lanes * ((taps - 1) * (bits + 2 * (not maximum)) + width),
            lut_largest=bits * lanes * taps * maximum, lut_result=width * lanes * (not maximum),
            lut_tree=(bits + 2) * lanes * (taps - 1) * (not maximum),
            lut4_adders=lanes * taps,
            counts=levels(self.window.window.taps) * self.counts * taps,
        )
        return out + self.requantiser.area() if self.requantiser else out

    def create(self) -> Pool:
        return Pool(self)


class Pool(Configured[PoolConfig]):
    """Maximum or average of each window.

    Parameters
    ----------
    config : :class:`PoolConfig`

    Members
    -------
    i, o : :py:`stream.Signature(ArrayLayout(signed(bits), lanes))`

    Timing
    ------
    ``C / lanes * ceil(taps / tap_lanes)`` cycles per output pixel.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.window = window = SlidingWindow(config.window)
        m.submodules.queue = queue = output_queue(config)
        wiring.connect(m, wiring.flipped(self.i), window.i)
        wiring.connect(m, queue.o, wiring.flipped(self.o))

        steps = config.window.steps
        step, fire = counter(steps, name="step"), window.o.valid
        m.d.comb += [window.room.eq(queue.room), queue.reserve.eq(window.start)]
        with m.If(fire):
            m.d.sync += step.eq(Mux(step == steps - 1, 0, step + 1))
        flags = Signal(data.StructLayout({"add": 1, "first": 1, "last": 1}))
        m.d.comb += [
            flags.add.eq(fire), flags.first.eq(step == 0), flags.last.eq(fire & (step == steps - 1))
        ]
        delayed = [flags]
        for k in range(1, config.tree_levels + 3):
            delayed.append(Signal(flags.shape(), name=f"flags_{k}"))
            m.d.sync += delayed[k].eq(delayed[k - 1])
        at = config.tree_levels + 1

        requantiser = config.requantiser
        shape = signed(config.tensor.bits if requantiser is None else requantiser.acc_bits)

        def reduce(label: str, values: list[Value], shape: Shape) -> Signal:
            """Maximum or sum over the taps of a window: a tree, then an accumulator."""

            def join(a: Value, b: Value) -> Value:
                return Mux(a > b, a, b) if requantiser is None else a + b

            terms = []
            for tap, value in enumerate(values):
                x = Signal(shape, name=f"x_{label}_{tap}", reset_less=True)
                m.d.sync += x.eq(value)
                terms.append(x)
            for level in range(config.tree_levels):
                joined = []
                for k in range(0, len(terms), 2):
                    term = Signal(shape, name=f"join_{label}_{level}_{k // 2}", reset_less=True)
                    m.d.sync += term.eq(join(*terms[k : k + 2]) if k + 1 < len(terms) else terms[k])
                    joined.append(term)
                terms = joined
            result = Signal(shape, name=f"result_{label}", reset_less=True)
            with m.If(delayed[at].add):
                m.d.sync += result.eq(Mux(delayed[at].first, terms[0], join(result, terms[0])))
            return result

        taps = range(config.tap_lanes)
        results = [reduce(str(lane), [window.o.p[tap * config.lanes + lane] for tap in taps], shape)
                   for lane in range(config.lanes)]
        done = delayed[at + 1].last
        if requantiser is None:
            m.d.comb += queue.i.valid.eq(done)
            m.d.comb += [p.eq(r) for p, r in zip(queue.i.p, results, strict=True)]
        else:
            m.submodules.requantiser = shared = Requantiser(requantiser)
            wiring.connect(m, shared.o, queue.i)
            m.d.comb += shared.i.valid.eq(done)
            m.d.comb += [p.eq(r) for p, r in zip(shared.i.p, results, strict=True)]
            if config.counts:
                count = unsigned(len(shared.set))
                m.d.comb += shared.set.eq(reduce("count", list(window.inside), count))
        return m


@carries_out(MaxPool, AveragePool)
def _pool(request: BlockRequest) -> PoolConfig:
    return PoolConfig(op=request.op, tensor=request.tensor, lanes=request.lanes,
                      **request.folded(PoolConfig))
