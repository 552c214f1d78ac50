"""How fast a network could be at best on a board, whatever the design."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from hwgen.boards import Board
from hwgen.device.arithmetic import signed_width
from hwgen.device.multiplier import Packing
from hwgen.device.storage import BLOCK_WIDTH, LUT_BITS, ULTRA_WIDTH
from hwgen.dse.design.streams import Streams, is_depthwise
from hwgen.ir import Attention, Convolution, Graph, MatMul, Recurrent, TensorType
from hwgen.parts.mac import MacArrayConfig

__all__ = ["Bounds", "Work", "bounds", "divided"]


FABRIC_LUTS = 20
"""Fewer LUTs than any product of two streams takes in the fabric."""


@dataclass(frozen=True)
class Bounds:
    """Least cycles a frame, by what limits them; 0 where nothing does.

    They are of dense work: a design that passes over zeros may be below those of products and
    memory.

    Members
    -------
    dsp : multiplications, as many a DSP as fit, on all usable DSPs and nowhere else: a design that
        multiplies in the fabric too may be below it
    products : the same, divided as well as can be among all usable DSPs and all usable LUTs
    memory : weights, each read for every few pixels from all ports of all memories
    bandwidth : if there is no room for all weights on the chip, the rest of them, once, and frames
        in and out, over the off-chip memory's practical bandwidth
    stream : pixels of the largest tensor, with all channels and as many pixels as possible a beat
    """

    dsp: int
    products: int
    memory: int
    bandwidth: int
    stream: int

    @property
    def cycles(self) -> int:
        """What no design of dense work is below: the largest of all but ``dsp``."""
        return max(self.products, self.memory, self.bandwidth, self.stream)

    @property
    def dsp_cycles(self) -> int:
        """What no such design is below that multiplies by DSPs alone: the largest of all."""
        return max(self.dsp, self.cycles)


def densest(conv: Convolution, tensor: TensorType, multiplier: str) -> int:
    """Most products in a multiplier."""
    bits = tensor.bits
    if is_depthwise(conv) and bits <= 8:
        return Packing.densest(multiplier, conv.weight_bits, bits, 1 << (bits - 1)).products
    return Packing.densest(multiplier, bits, conv.weight_bits, conv.weight_limit).products


def fabric_luts(conv: Convolution, tensor: TensorType, family: str) -> float:
    """Fewest LUTs for each multiplier in the fabric: of an array that sums one product, or of one
    that sums all products of a result, whichever takes fewer."""
    packing = Packing("fabric", 1, tensor.bits, conv.weight_bits, conv.weight_limit)
    acc_bits = signed_width(*conv.accumulator_range(tensor))
    whole = conv.weight.size // conv.cout
    return min(
        MacArrayConfig(simd=simd, pe=1, packing=packing, acc_bits=acc_bits)
        .resources(family).lut / simd for simd in {1, whole}
    )


class Work(NamedTuple):
    """A piece of work for two kinds of multipliers.

    Members
    -------
    by_dsp, by_lut : cycles that it takes if all DSPs do it, and if all LUTs do
    """

    by_dsp: float
    by_lut: float


def divided(work: list[Work]) -> float:
    """Fewest cycles in which both kinds of multipliers do all work together.

    The linear program has a simple answer: work goes to LUTs in order of how little time it takes
    there for the time that it takes with DSPs, until both take as long.
    """
    dsp, lut = sum(each.by_dsp for each in work), 0.0
    for each in sorted(work, key=lambda each: each.by_lut / each.by_dsp):
        if lut + each.by_lut > dsp - each.by_dsp:
            return lut + (dsp - lut) * each.by_lut / (each.by_dsp + each.by_lut)
        dsp, lut = dsp - each.by_dsp, lut + each.by_lut
    return max(dsp, lut)


def bounds(graph: Graph, board: Board, streams: Streams, clock_mhz: float) -> Bounds:
    """Bounds of a network on a board.

    Parameters
    ----------
    graph, board : the network and the board
    streams : of the graph
    clock_mhz : clock, for the bandwidth
    """
    usable = board.usable
    work: list[Work] = []
    reads, weights = 0, 0
    for node in graph.nodes:
        tensor = graph.types[node.inputs[0]]
        conv = node.op.as_conv(tensor)
        if isinstance(node.op, Attention | MatMul):
            types = [graph.types[t] for t in node.inputs]
            macs, (one, other) = node.op.macs(*types), sorted(t.bits for t in types)[-2:]
            products = Packing.densest(
                board.multiplier, other, one, 1 << (one - 1)).products
            work.append(Work(macs / products / max(usable.dsp, 1e-9),
                             macs * FABRIC_LUTS / max(usable.lut, 1e-9)))
        layers = [(conv, tensor, node.op.macs(tensor))] if conv else []
        if isinstance(node.op, Recurrent):
            layers = [(part, node.op.hidden, tensor.pixels * part.weight.size)
                      for part in node.op.matrices]
        for conv, tensor, macs in layers:
            by_dsp = macs / densest(conv, tensor, board.multiplier) / max(usable.dsp, 1e-9)
            by_lut = macs * fabric_luts(conv, tensor, board.family) / max(usable.lut, 1e-9)
            work.append(Work(by_dsp, by_lut))
            reads += macs * conv.weight_bits
            weights += conv.weight.size * conv.weight_bits
    traffic = sum(type.size * -(-type.bits // 8) * 8
                  for type in (*graph.inputs.values(), *(graph.types[n] for n in graph.outputs)))
    held = usable.memory_bits + LUT_BITS * usable.lut
    excess = max(weights - held, 0)
    rate = board.offchip_practical_gbps * 1e3 / clock_mhz
    # Bits a cycle: a block gives a word, an UltraRAM two, a LUT one bit.
    ports = BLOCK_WIDTH * usable.bram18 + 2 * ULTRA_WIDTH * usable.uram + usable.lut
    shared = max((each.extent for each in streams.classes.values() if not each.single), default=1)
    return Bounds(
        dsp=math.ceil(sum(each.by_dsp for each in work)) if usable.dsp else 0,
        products=math.ceil(divided(work) - 1e-6),
        memory=math.ceil(reads / ports / min(shared, 8)) if ports else 0,
        bandwidth=math.ceil((traffic + excess) / rate) if rate and excess else 0,
        stream=streams.bound(),
    )
