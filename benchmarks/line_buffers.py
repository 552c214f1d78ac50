"""Line buffers on the chip and off it: block memories of convolutions of the zoo, and bytes.

    python -m benchmarks.line_buffers [MODEL:SIZE ...]

For the first convolutions of each network, and the one with the longest rows: a pipeline of that
convolution alone, at the interval that 5,000 multiplications a cycle allow the whole network, with
about the fewest multipliers, and of those designs the one with the cheapest window.  Once as it is,
once split into rows (:mod:`hwgen.ir.rows`) whose queues are off the chip.  Block memories and LUTs
are those of all but multipliers and weights.  Frames have 64 rows at most: more change nothing.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from hwgen.blocks.conv import FoldedConvConfig
from hwgen.design import OFF_CHIP, DesignPoint, Folding, MemoryPorts
from hwgen.dse.design.streams import fold_choices
from hwgen.errors import HwgenError
from hwgen.ir import Conv, Graph, Quantisation, Requantise, TensorType
from hwgen.ir.rows import row_edges, split_rows
from hwgen.models import zoo
from hwgen.netlist import Netlist
from hwgen.plan import plan
from hwgen.timing import sized

MACS = 5000
"""Multiplications a cycle: what a ZCU102 has DSPs for."""

MODELS = ("vgg16:224", "yolov5n:640", "yolov5n:1280", "unet-bilinear:256", "unet-bilinear:512",
          "unet-bilinear:1024", "unet-bilinear:2048")

ROWS = 64
"""Rows of a frame at most."""

LUTS_A_BLOCK = 150
"""LUTs that a ZCU102 has for each of its block memories."""

PORTS = (MemoryPorts(), MemoryPorts(burst=16, memory_latency=256))


@dataclass(frozen=True)
class Layer:
    """A convolution, with extents of its input."""

    height: int
    width: int
    cin: int
    cout: int
    kernel: int
    stride: int
    pad: int

    @property
    def row(self) -> int:
        """Bytes of a row of the input."""
        return self.width * self.cin

    def graph(self) -> Graph:
        graph, q = Graph(), Quantisation()
        graph.add_input("x", TensorType((self.height, self.width, self.cin), q))
        weight = np.ones((self.cout, self.kernel, self.kernel, self.cin), np.int16)
        op = Conv(weight, np.zeros(self.cout), Requantise.from_scale([0.01] * self.cout), q,
                  (self.stride,) * 2, ((self.pad,) * 2,) * 2)
        graph.outputs = [graph.add(op, "x", name="y")]
        return graph


def layers(model: str, size: int) -> tuple[list[Layer], int]:
    """The convolutions of a network, and its multiplications for a frame."""
    import torch
    from torch import nn

    entry = zoo.find(model)
    found: list[Layer] = []
    macs = 0

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal macs
        macs += output[0].numel() * module.weight[0].numel()
        if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1:
            _, cin, height, width = inputs[0].shape
            found.append(Layer(height, width, cin, module.out_channels, module.kernel_size[0],
                               module.stride[0], int(module.padding[0])))

    with torch.device("meta"):
        network = entry.build().eval()
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                module.register_forward_hook(note)
        network(torch.zeros(entry.input_shape(size)))
    return found, macs


def foldings(conv: Conv, tensor: TensorType, interval: int, lanes: int) -> Iterator[Folding]:
    """Foldings that are fast enough, with the fewest multipliers."""
    pixels = math.prod(conv.window.output(tensor.spatial))
    choices = [
        (channels * taps * pe, channels, taps, pe)
        for channels in fold_choices(tensor.channels, math.gcd(lanes, tensor.channels)).tolist()
        for taps in fold_choices(conv.window.taps).tolist()
        for pe in fold_choices(conv.cout).tolist()
        if pixels * -(-tensor.channels // channels) * -(-conv.window.taps // taps)
        * -(-conv.cout // pe) <= interval
    ]
    least = min(choices)[0]
    for lanes_used, channels, taps, pe in choices:
        if lanes_used <= 1.2 * least:
            yield Folding(channels, taps, 1, pe)


def memory(netlist: Netlist) -> tuple[int, int]:
    """Block memories and LUTs: of the convolution, only its window, for the rest is the same."""
    blocks = luts = 0
    for config in netlist.blocks.values():
        if isinstance(config, FoldedConvConfig):
            blocks += config.window.resources().bram18
            luts += config.window.resources().lut
            continue
        takes = config.resources()
        blocks, luts = blocks + takes.bram18, luts + takes.lut
    if netlist.offchip:
        for port in netlist.offchip.port_configs:
            luts += port.resources().lut
    return blocks, luts


def cost(takes: tuple[int, int]) -> float:
    """Block memories and what LUTs are worth in block memories."""
    return takes[0] + takes[1] / LUTS_A_BLOCK


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


@dataclass(frozen=True)
class Found:
    """A design of one convolution.

    Members
    -------
    takes : block memories and LUTs
    scheduled : the same, with all queues and the window as the schedule has them
    interval : cycles
    bytes : to and from memory, a frame
    lanes, folding : of the design
    """

    takes: tuple[int, int]
    scheduled: tuple[int, int]
    interval: int
    bytes: int
    lanes: int
    folding: Folding


def best(layer: Layer, interval: int, ports: MemoryPorts | None) -> Found:
    """The cheapest design; split if there are ports."""
    graph = layer.graph()
    if ports:
        graph = split_rows(graph, "y")
    (node,) = (node for node in graph.nodes if isinstance(node.op, Conv))
    assert isinstance(node.op, Conv)
    tensor = graph.types[node.inputs[0]]
    fits = [n for n in divisors(layer.cin) if tensor.size // n <= interval] or [layer.cin]
    interval = max(interval, tensor.size // fits[0])
    found = [design(graph, node.op, tensor, interval, lanes, ports)
             for lanes in (fits[:5] if ports else fits[:1])]
    return min(found, key=lambda each: cost(each.takes))


def design(graph: Graph, conv: Conv, tensor: TensorType, interval: int, lanes: int,
           ports: MemoryPorts | None) -> Found:
    """The design whose window is cheapest, for streams of some lanes."""
    windows = {}
    for folding in foldings(conv, tensor, interval, lanes):
        with suppress(HwgenError):
            config = FoldedConvConfig(
                op=conv, tensor=tensor, lanes_in=math.gcd(lanes, folding.channel_lanes),
                channel_lanes=folding.channel_lanes, tap_lanes=folding.tap_lanes, pe=folding.pe)
            resources = config.window.resources()
            windows[folding] = cost((resources.bram18, resources.lut))
    folding = min(windows, key=windows.__getitem__)
    outs = [n for n in divisors(folding.pe) if conv.cout % n == 0]
    fast = [n for n in outs if graph.types["y"].size // n <= interval] or outs[-1:]
    streams = {name: lanes for name in graph.types if name != "y"}
    point = DesignPoint("", 250.0, {"y": folding}, {**streams, "y": fast[0]})
    if ports:
        point.ports = ports
        point.memories = dict.fromkeys(row_edges(graph, "y")[:-1], OFF_CHIP)
    point, netlist, timing = sized(graph, point)
    scheduled = memory(netlist)
    if ports and conv.stride[-1] == 1:
        # Padding comes at once, but may wait; with strides it may not: see docs/offchip.md.
        window = netlist.blocks["y"]
        assert isinstance(window, FoldedConvConfig)
        *_, middle, newest = row_edges(graph, "y")
        away = netlist.blocks[f"evict_{middle.replace('>', '_')}"].least_depths[0]
        small = replace(folding, capacity=2 * window.window.least_capacity)
        netlist = plan(graph, replace(
            point, foldings={**point.foldings, "y": small},
            depths=point.depths | {newest: min(point.depths[newest], away)}))
    moved = netlist.offchip.reads + netlist.offchip.writes if netlist.offchip else 0
    return Found(memory(netlist), scheduled, timing.interval, moved, lanes, folding)


def main() -> int:
    print("| network | convolution | row, bytes | interval | window: blocks, LUTs | split, as "
          "scheduled | split, by hand | short bursts | gain, blocks | MB a frame | bytes a cycle |")
    print("|---" * 11 + "|")
    for text in sys.argv[1:] or MODELS:
        model, size = text.split(":")
        found, macs = layers(model, int(size))
        longest = max(found, key=lambda layer: layer.row)
        for layer in dict.fromkeys((*found[:2], longest)):
            rows = min(layer.height, ROWS)
            frame = replace(layer, height=rows)
            wanted = macs // MACS * rows // layer.height
            split, short = (best(frame, wanted, ports) for ports in PORTS)
            window = best(frame, split.interval, None)
            kernel = f"{layer.kernel}x{layer.kernel}" + f"/{layer.stride}" * (layer.stride > 1)
            slow = "*" * (split.interval > 1.02 * wanted)
            takes = " | ".join(f"{blocks}, {luts:,}" for blocks, luts in (
                window.takes, split.scheduled, split.takes, short.takes))
            print(f"| {model} {size} | {layer.width} x {layer.cin} → {layer.cout}, {kernel} "
                  f"| {layer.row:,} | {split.interval * layer.height // rows:,}{slow} | {takes} "
                  f"| {cost(window.takes) - cost(short.takes):+.0f} "
                  f"| {split.bytes * layer.height / rows / 1e6:.1f} "
                  f"| {split.bytes / split.interval:.1f} |", flush=True)
            print("   ", *((each.lanes, each.folding.channel_lanes, each.folding.tap_lanes,
                            each.folding.pe) for each in (window, split, short)), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
