"""Maximum and mean of each channel over a whole frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring

from hwgen.blocks.base import OpConfig
from hwgen.blocks.beat import BeatConfig, most_claims
from hwgen.blocks.output import output_queue
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.device.arithmetic import counter, delayed, levels, wrapped_bits
from hwgen.device.cost import Area, logic
from hwgen.ir import GlobalAveragePool, GlobalMaxPool
from hwgen.parts.component import Configured
from hwgen.parts.memory import BufferMemory, buffer_area, buffer_registers
from hwgen.parts.requantise import Requantiser, RequantiserConfig, lane_requantiser
from hwgen.parts.turns import last_of

__all__ = ["GlobalPool", "GlobalPoolConfig"]

REGISTERS = 4
"""Most accumulators per lane that are registers.

With more, there is time to keep them in a memory: it takes two cycles to fetch a word, one to add
and one to write.
"""


@dataclass(frozen=True, kw_only=True)
class GlobalPoolConfig(BeatConfig, OpConfig):
    """Mean or maximum of all pixels of a frame.

    Parameters
    ----------
    op : :class:`hwgen.ir.GlobalAveragePool` or :class:`hwgen.ir.GlobalMaxPool`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Channels per beat, at both ports.
    multiplier : :class:`str`
        Multiplier that scales a mean, one of :data:`hwgen.device.multiplier.MULTIPLIERS`.
    """

    kind: ClassVar[str] = "pool"

    op: GlobalAveragePool | GlobalMaxPool
    multiplier: str = "dsp48e2"

    def __post_init__(self) -> None:
        _ = self.inputs, self.outputs, self.requantiser

    @cached_property
    def requantiser(self) -> RequantiserConfig | None:
        """The requantisers of a mean; None for a maximum."""
        if isinstance(self.op, GlobalMaxPool):
            return None
        pixels, q = self.tensor.pixels, self.tensor.quantisation
        return lane_requantiser(
            self.op.requantise, self.op.output, lanes=self.lanes, multiplier=self.multiplier,
            bias=-pixels * q.zero_point,
            acc_range=(pixels * (q.low - max(q.zero_point, 0)),
                       pixels * (q.high - min(q.zero_point, 0))),
        )

    @property
    def folding_fields(self) -> tuple[str, ...]:
        # A maximum is not scaled.
        return tuple(name for name in super().folding_fields
                     if name != "multiplier" or isinstance(self.op, GlobalAveragePool))

    @property
    def beats_per_site(self) -> int:
        """Beats per pixel, which is also the number of accumulators per lane."""
        return self.inputs[0].beats_per_site

    @property
    def in_memory(self) -> bool:
        """Whether accumulators are in a memory."""
        return self.beats_per_site > REGISTERS

    @property
    def acc_bits(self) -> int:
        """Bits of an accumulator."""
        return self.requantiser.acc_bits if self.requantiser else self.tensor.bits

    @property
    def join_latency(self) -> int:
        """Cycles from accepting a beat until its accumulators are visible."""
        return 3 if self.in_memory else 2

    @property
    def push_latency(self) -> int:
        return self.join_latency + (self.requantiser.latency if self.requantiser else 0)

    @property
    def least_depths(self) -> tuple[int, ...]:
        return (most_claims(self.claim_cycles, self.beats_per_site, self.inputs[0].beats),)

    def claiming(self, beats: np.ndarray) -> np.ndarray:
        return beats.reshape(-1, self.tensor.pixels, self.beats_per_site)[:, -1].ravel()

    def area(self) -> Area:
        width = self.acc_bits * self.lanes
        beats = self.beats_per_site
        x = self.inputs[0].width
        maximum = self.requantiser is None
        out = self.queues_area()
        features: dict[str, Any] = {
            "one": 1, "flags": self.join_latency, "counter": levels(beats),
            "lut_wrap": wrapped_bits(beats), "pixels": levels(self.tensor.pixels),
            "lut_maximum": width * maximum, "lut_sum": width * (not maximum),
            "ff_register": beats * width + x, "lut4_adders": self.lanes,
        }
        if beats == 4:
            # All of the ring but its first register is a shift register of three.
            features |= {"ff_register": width + x, "lut_shift": width, "ff4_shift": 3 * width}
        if self.in_memory:
            out += buffer_area(width, beats)
            features |= {"ff_register": buffer_registers(width, beats) + width + 2 * x,
                         "lut_address": levels(beats), "lut_later": x}
        out += logic("global pool", **features)
        return out + self.requantiser.area() if self.requantiser else out

    def create(self) -> GlobalPool:
        return GlobalPool(self)


class GlobalPool(Configured[GlobalPoolConfig]):
    """Combines every beat with the accumulators of its channels; no pixels are stored.

    The accumulators of a beat are needed again a pixel later.  If a pixel has few beats, they
    circulate in a ring of registers; otherwise they are in a memory, which needs four cycles from
    one addition to the next.

    Parameters
    ----------
    config : :class:`GlobalPoolConfig`

    Members
    -------
    i, o : :py:`stream.Signature(ArrayLayout(signed(bits), lanes))`

    Timing
    ------
    One beat per cycle.  A beat of the last pixel is accepted only if there is room; its result is
    visible ``config.push_latency`` + 3 cycles later: 5 for a maximum with up to four beats per
    pixel, 6 with more.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.queue = queue = output_queue(config)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        fire = Signal()
        pixel_end = Signal()
        beats = config.beats_per_site
        beat = counter(beats, name="beat")
        if beats > 1:
            with m.If(fire):
                m.d.sync += beat.eq(Mux(beat == beats - 1, 0, beat + 1))
        first = Signal(init=1)
        last = last_of(m, config.tensor.pixels, pixel_end, "pixels_left")
        with m.If(pixel_end):
            m.d.sync += first.eq(last)
        m.d.comb += [
            self.i.ready.eq(~last | queue.room),
            fire.eq(self.i.valid & self.i.ready),
            pixel_end.eq(fire & (beat == beats - 1)),
            queue.reserve.eq(fire & last),
        ]
        flags = [Signal(data.StructLayout({"add": 1, "first": 1, "last": 1}))]
        m.d.comb += [flags[0].add.eq(fire), flags[0].first.eq(first), flags[0].last.eq(fire & last)]
        for k in range(config.join_latency):
            flags.append(Signal.like(flags[0], name=f"flags_{k}"))
            m.d.sync += flags[k + 1].eq(flags[k])

        join = self._in_memory if config.in_memory else self._in_registers
        results = join(m, flags, beat)
        if config.requantiser is None:
            target = queue.i
        else:
            m.submodules.requantiser = requantiser = Requantiser(config.requantiser)
            wiring.connect(m, requantiser.o, queue.i)
            target = requantiser.i
        m.d.comb += target.valid.eq(flags[-1].last)
        m.d.comb += [p.eq(result) for p, result in zip(target.p, results, strict=True)]
        return m

    def _in_registers(self, m: Module, flags: list, beat: Signal) -> list[Value]:
        """Accumulators in a ring of registers."""
        results = []
        for lane in range(self.config.lanes):
            x = delayed(m, self.i.p[lane], 1, f"x_{lane}")
            ring = [
                Signal(signed(self.config.acc_bits), name=f"acc_{lane}_{k}", reset_less=True)
                for k in range(self.config.beats_per_site)
            ]
            with m.If(flags[1].add):
                m.d.sync += ring[0].eq(self._join(ring[-1], x, flags[1].first))
                m.d.sync += [b.eq(a) for a, b in zip(ring, ring[1:])]
            results.append(ring[0])
        return results

    def _in_memory(self, m: Module, flags: list, beat: Signal) -> list[Value]:
        """Accumulators in a memory: they are fetched, updated and written back."""
        config = self.config
        bits = config.acc_bits
        m.submodules.accumulators = memory = BufferMemory(
            bits * config.lanes, config.beats_per_site
        )
        results = []
        for lane in range(config.lanes):
            x = delayed(m, self.i.p[lane], 2, f"x_{lane}")
            acc = memory.read_data[lane * bits : (lane + 1) * bits].as_signed()
            result = Signal(signed(bits), name=f"result_{lane}", reset_less=True)
            m.d.sync += result.eq(self._join(acc, x, flags[2].first))
            results.append(result)
        m.d.comb += [
            memory.read_en.eq(flags[0].add), memory.read_addr.eq(beat), memory.load.eq(1),
            memory.write_en.eq(flags[3].add),
            memory.write_addr.eq(delayed(m, beat, 3, "beat")),
            memory.write_data.eq(Cat(results)),
        ]
        return results

    def _join(self, acc: Value, x: Value, first: Value) -> Value:
        if isinstance(self.config.op, GlobalMaxPool):
            return Mux(first | (x > acc), x, acc)
        return Mux(first, 0, acc) + x


@carries_out(GlobalAveragePool, GlobalMaxPool)
def _global_pool(request: BlockRequest) -> GlobalPoolConfig:
    return GlobalPoolConfig(op=request.op, tensor=request.tensor, lanes=request.lanes,
                            **request.folded(GlobalPoolConfig))
