"""The largest channel of each pixel."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring

from hwgen import ir
from hwgen.blocks.beat import valid_chain
from hwgen.blocks.largest import LargestConfig
from hwgen.blocks.output import output_queue
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.device.arithmetic import delayed, levels
from hwgen.device.cost import Area, logic
from hwgen.parts.component import Configured
from hwgen.parts.turns import last_of

__all__ = ["ChannelMax", "ChannelMaxConfig"]


@dataclass(frozen=True, kw_only=True)
class ChannelMaxConfig(LargestConfig):
    """The largest channel of each pixel, as a stream of one channel.

    Parameters
    ----------
    op : :class:`hwgen.ir.ChannelMax`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Channels per beat of the input; the output has one.
    """

    op: ir.ChannelMax

    @property
    def push_latency(self) -> int:
        return self.tree_levels + 2

    def area(self) -> Area:
        bits, left = self.tensor.bits, self.lanes
        pairs = registers = 0
        for _ in range(self.tree_levels):
            pairs += left // 2
            left = -(-left // 2)
            registers += left * bits
        return self.queues_area() + logic(
            "argmax", one=1, flags=2 * self.push_latency, x=bits * self.lanes, tree=registers,
            pairs=pairs * bits, lut4_pairs=pairs, compare=bits,
            beats=levels(self.tensor.channels // self.lanes) + 1,
        )

    def create(self) -> ChannelMax:
        return ChannelMax(self)


class ChannelMax(Configured[ChannelMaxConfig]):
    """Finds the largest channel: a tree over a beat, then the largest so far.

    Parameters
    ----------
    config : :class:`ChannelMaxConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(bits), 1)))`

    Timing
    ------
    One beat a cycle.  A pixel whose last beat was accepted in cycle t is visible in
    t + 5 + ceil(log2(lanes)).
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.queue = queue = output_queue(config)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        fire, first = Signal(), Signal(init=1)
        last = last_of(m, config.inputs[0].beats_per_site, fire, "beats_left")
        with m.If(fire):
            m.d.sync += first.eq(last)
        m.d.comb += [
            self.i.ready.eq(~last | queue.room),
            fire.eq(self.i.valid & self.i.ready),
            queue.reserve.eq(fire & last),
        ]
        terms: list[Value] = [delayed(m, self.i.p[lane], 1, f"x_{lane}")
                              for lane in range(config.lanes)]
        for level in range(config.tree_levels):
            joined: list[Value] = []
            for k in range(0, len(terms), 2):
                a, b = terms[k], terms[min(k + 1, len(terms) - 1)]
                value = Signal(a.shape(), name=f"value_{level}_{k // 2}", reset_less=True)
                m.d.sync += value.eq(Mux(b > a, b, a))
                joined.append(value)
            terms = joined
        (value,) = terms
        behind = config.tree_levels + 1
        largest = Signal(value.shape(), reset_less=True)
        begins = delayed(m, first, behind, "first")
        with m.If(valid_chain(m, fire, behind)[-1] & (begins | (value > largest))):
            m.d.sync += largest.eq(value)
        ends = fire & last
        for k in range(config.push_latency):
            later = Signal(name=f"ends_{k}")
            m.d.sync += later.eq(ends)
            ends = later
        m.d.comb += [queue.i.valid.eq(ends), queue.i.p[0].eq(largest)]
        return m


@carries_out(ir.ChannelMax, own_lanes=True)
def _channel_max(request: BlockRequest) -> ChannelMaxConfig:
    return ChannelMaxConfig(op=request.op, tensor=request.tensor, lanes=request.streams[0].lanes)
