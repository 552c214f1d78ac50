"""Number of the largest channel of each pixel."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring

from hwgen import ir
from hwgen.blocks.largest import LargestConfig
from hwgen.blocks.output import output_queue
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.device.arithmetic import counter, delayed, levels
from hwgen.device.cost import Area, logic
from hwgen.parts.component import Configured
from hwgen.parts.turns import last_of

__all__ = ["ArgMax", "ArgMaxConfig"]


@dataclass(frozen=True, kw_only=True)
class ArgMaxConfig(LargestConfig):
    """Number of the largest channel of each pixel; of equal ones, that of the first.

    Parameters
    ----------
    op : :class:`hwgen.ir.ArgMax`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Channels per beat at the input; the output has one.
    """

    op: ir.ArgMax

    @property
    def push_latency(self) -> int:
        return self.tree_levels + 3

    def area(self) -> Area:
        bits, index = self.tensor.bits, self.outputs[0].width
        lane = levels(self.lanes)
        pairs = registers = 0
        left = self.lanes
        for level in range(self.tree_levels):
            pairs += left // 2
            left = -(-left // 2)
            registers += left * (bits + level + 1)
        return self.queues_area() + logic(
            "argmax", one=1, flags=self.push_latency, x=bits * self.lanes, tree=registers,
            pairs=pairs * bits, lut4_pairs=pairs, compare=bits,
            base=max(self.tensor.channels - 1, 1).bit_length(),
            lane=lane, number=index, beats=levels(self.tensor.channels // self.lanes) + 1,
        )

    def create(self) -> ArgMax:
        return ArgMax(self)


class ArgMax(Configured[ArgMaxConfig]):
    """Finds the largest channel of each pixel: a tree compares a beat, a register keeps the best.

    Parameters
    ----------
    config : :class:`ArgMaxConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(output bits), 1)))`

    Timing
    ------
    One beat per cycle.  If the last beat of a pixel is accepted in cycle t, the result is visible
    in t + 6 + ceil(log2(lanes)).
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.queue = queue = output_queue(config)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        fire = Signal()
        first = Signal(init=1)
        last = last_of(m, config.inputs[0].beats_per_site, fire, "beats_left")
        with m.If(fire):
            m.d.sync += first.eq(last)
        m.d.comb += [
            self.i.ready.eq(~last | queue.room),
            fire.eq(self.i.valid & self.i.ready),
            queue.reserve.eq(fire & last),
        ]
        flags = [Signal(data.StructLayout({"add": 1, "first": 1, "last": 1}))]
        m.d.comb += [flags[0].add.eq(fire), flags[0].first.eq(first), flags[0].last.eq(fire & last)]
        for k in range(config.push_latency):
            flags.append(Signal.like(flags[0], name=f"flags_{k}"))
            m.d.sync += flags[k + 1].eq(flags[k])

        value, lane = self._tree(m)
        now = flags[config.tree_levels + 1]
        largest = Signal.like(value, reset_less=True)
        # Number of the beat's first channel; for the largest channel, that number and its lane.
        base = Signal(range(config.tensor.channels))
        largest_base = Signal.like(base, reset_less=True)
        largest_lane = Signal.like(lane, reset_less=True)
        with m.If(now.add):
            m.d.sync += base.eq(Mux(now.last, 0, base + config.lanes))
            # A later channel that is equal does not count.
            with m.If(now.first | (value > largest)):
                m.d.sync += [largest.eq(value), largest_base.eq(base), largest_lane.eq(lane)]
        number = Signal(config.outputs[0].width, reset_less=True)
        m.d.sync += number.eq(largest_base + largest_lane)
        m.d.comb += [queue.i.valid.eq(flags[-1].last), queue.i.p[0].eq(number)]
        return m

    def _tree(self, m: Module) -> tuple[Value, Signal]:
        """Largest value of a beat, and its lane."""
        lanes = self.config.lanes
        terms: list[tuple[Value, Value]] = [
            (delayed(m, self.i.p[lane], 1, f"x_{lane}"), Const(lane, range(max(lanes, 2))))
            for lane in range(lanes)
        ]
        for level in range(self.config.tree_levels):
            joined = []
            for k in range(0, len(terms), 2):
                a, b = terms[k], terms[min(k + 1, len(terms) - 1)]
                value = Signal.like(a[0], name=f"value_{level}_{k // 2}", reset_less=True)
                lane = counter(lanes, name=f"lane_{level}_{k // 2}", reset_less=True)
                upper = b[0] > a[0]
                m.d.sync += [
                    value.eq(Mux(upper, b[0], a[0])), lane.eq(Mux(upper, b[1], a[1]))
                ]
                joined.append((value, lane))
            terms = joined
        (value, lane), = terms
        only = counter(lanes, name="lane")
        m.d.comb += only.eq(lane)
        return value, only


@carries_out(ir.ArgMax, own_lanes=True)
def _argmax(request: BlockRequest) -> ArgMaxConfig:
    return ArgMaxConfig(op=request.op, tensor=request.tensor, lanes=request.streams[0].lanes)
