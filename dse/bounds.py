"""How fast a network could be at best on a board, whatever the design."""

from __future__ import annotations

import math
from dataclasses import dataclass

from boards import Board
from dse.streams import Streams, is_depthwise
from hwgen.blocks.multiplier import Packing
from hwgen.ir import Convolution, Graph, TensorType
from hwgen.pipeline import as_conv

__all__ = ["Bounds", "bounds"]


@dataclass(frozen=True)
class Bounds:
    """Least cycles a frame, by what limits them; 0 where nothing does.

    Members
    -------
    dsp : multiplications, as many a DSP as fit, on all usable DSPs
    memory : weights, each read for every few pixels from all ports of all memories
    bandwidth : frames in and out, and weights for which there is no room on the chip, once, over
        the off-chip memory's practical bandwidth
    stream : elements of the largest tensor, all channels and as many pixels as possible a beat
    """

    dsp: int
    memory: int
    bandwidth: int
    stream: int

    @property
    def cycles(self) -> int:
        """The largest of them."""
        return max(self.dsp, self.memory, self.bandwidth, self.stream)


def densest(conv: Convolution, tensor: TensorType, multiplier: str) -> int:
    """Most products in a multiplier."""
    bits = tensor.bits
    if is_depthwise(conv) and bits <= 8:
        return Packing.densest(multiplier, conv.weight_bits, bits, 1 << (bits - 1)).products
    return Packing.densest(multiplier, bits, conv.weight_bits, conv.weight_limit).products


def bounds(graph: Graph, board: Board, streams: Streams, clock_mhz: float) -> Bounds:
    """Bounds of a network on a board.

    Parameters
    ----------
    graph, board : what, and on what
    streams : the graph's classes
    clock_mhz : clock, for the bandwidth
    """
    usable = board.usable
    products, reads, weights = 0.0, 0, 0
    for node in graph.nodes:
        tensor = graph.types[node.inputs[0]]
        conv = as_conv(node.op, tensor)
        if conv is None:
            continue
        macs = node.op.macs(tensor)
        products += macs / densest(conv, tensor, board.multiplier)
        reads += macs * conv.weight_bits
        weights += conv.weight.size * conv.weight_bits
    traffic = sum(type.size * -(-type.bits // 8) * 8
                  for type in (*graph.inputs.values(), *(graph.types[n] for n in graph.outputs)))
    held = 18432 * usable.bram18 + 72 * 4096 * usable.uram + 64 * usable.lut
    traffic += max(weights - held, 0)
    rate = board.offchip_practical_gbps * 1e3 / clock_mhz
    # Bits a cycle: a block gives 36, an UltraRAM two words, a LUT one bit.
    ports = 36 * usable.bram18 + 144 * usable.uram + usable.lut
    shared = max((each.extent for each in streams.classes.values() if not each.single), default=1)
    return Bounds(
        # Multipliers in the fabric are not counted: where they help, the design may be better.
        dsp=math.ceil(products / usable.dsp) if usable.dsp else 0,
        memory=math.ceil(reads / ports / min(shared, 8)) if ports else 0,
        bandwidth=math.ceil(traffic / rate) if rate else 0,
        stream=streams.least_interval(),
    )
