"""The parts of a network and the tables of the ways to build them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from hwgen.blocks.registry import block_config
from hwgen.boards import Board
from hwgen.design import OFF_CHIP, Folding, MemoryPorts
from hwgen.device.arithmetic import signed_width
from hwgen.device.storage import STYLES
from hwgen.dse.design.amounts import BANDWIDTH, Amounts, vector
from hwgen.dse.design.attention import attention_table
from hwgen.dse.design.convolution import ConvTable
from hwgen.dse.design.learned import QUEUE, Learned
from hwgen.dse.design.matmul import matmul_table
from hwgen.dse.design.recurrent import recurrent_table
from hwgen.dse.design.streaming import External
from hwgen.dse.design.streams import Beats, is_depthwise
from hwgen.dse.design.table import Column, Consumer, FixedTable
from hwgen.dse.design.workload import Workload
from hwgen.dse.sparse.statistics import Statistics
from hwgen.errors import HwgenError
from hwgen.ir import (
    Attention,
    AveragePool,
    Convolution,
    Embedding,
    GlobalAveragePool,
    Graph,
    LayerNorm,
    MatMul,
    Mul,
    Node,
    Recurrent,
    Softmax,
    TensorType,
)
from hwgen.parts.stream import StreamType

__all__ = ["Tables"]


class _Convolved(NamedTuple):
    """A node that is a convolution, and what its foldings depend on beside its streams."""

    node: Node
    conv: Convolution
    geometry: tuple


class Tables:
    """The tables of a network; parts that are alike share one, and it is kept.

    Parameters
    ----------
    graph, board : the network and the board
    statistics : of zeros, for convolutions that may be sparse
    """

    def __init__(self, graph: Graph, board: Board, statistics: Statistics | None = None) -> None:
        self.graph, self.board, self.statistics = graph, board, statistics
        self._convolutions = list(self._find())
        self._known: dict[tuple, Any] = {}

    def _find(self) -> Iterator[_Convolved]:
        for node in self.graph.nodes:
            tensor = self.graph.types[node.inputs[0]]
            conv = node.op.as_conv(tensor)
            if conv is not None:
                yield _Convolved(node, conv, _geometry(conv, tensor))

    @property
    def depthwise(self) -> bool:
        """Whether there is a depthwise convolution."""
        return any(is_depthwise(each.conv) for each in self._convolutions)

    def parts(self, beats: Beats, learned: Learned, external: External | None) -> list[Consumer]:
        """What is to be built between streams of given lanes and pixels.

        Parameters
        ----------
        beats : the streams
        learned : sizes of buffers and queues
        external : off-chip memory, if it may be used
        """
        parts = [Consumer((each.node.name,), self._convolution(each, beats, learned, external))
                 for each in self._convolutions]
        for node in self.graph.nodes:
            if isinstance(
                    node.op, AveragePool | GlobalAveragePool | LayerNorm | Mul | Softmax):
                parts.append(Consumer((node.name,), self._scaled(node, beats)))
            if isinstance(node.op, Embedding):
                parts.append(Consumer((node.name,), self._embedding(node, beats, external)))
            if isinstance(node.op, Attention):
                parts.append(Consumer((node.name,), self._attention(node, node.op, beats)))
            if isinstance(node.op, MatMul):
                parts.append(Consumer((node.name,), self._matmul(node, node.op, beats)))
            if isinstance(node.op, Recurrent):
                parts.append(Consumer((node.name,), self._recurrent(node, node.op, beats)))
        queues = {QUEUE + edge: queue for edge, queue in learned.queues.items()}
        for name, kept in (queues | learned.orders).items():
            more = kept.off_chip if external else []
            parts.append(Consumer((name,), FixedTable([*kept.on_chip, *more])))
        return parts

    def _convolution(
        self, each: _Convolved, beats: Beats, learned: Learned, external: External | None
    ) -> ConvTable:
        name, source = each.node.name, each.node.inputs[0]
        tiles = learned.tiles.get(name, {}) if external else {}
        layer = self.statistics.layers.get(name) if self.statistics else None
        work = Workload(
            each.conv, self.graph.types[source], lanes_in=beats.lanes[source],
            lanes_out=beats.lanes[name], pixels_in=beats.pixels[source],
            pixels_out=beats.pixels[name], multiplier=self.board.multiplier,
            family=self.board.family, ultra=self.board.uram > 0, sites=learned.sites.get(name, 0),
        )
        key = (
            each.geometry, work.lanes_in, work.lanes_out, work.pixels_in, work.pixels_out,
            work.sites, external, tuple(sorted(tiles.items())), layer,
        )
        if key not in self._known:
            self._known[key] = ConvTable(work, external, dict(tiles), layer)
        return self._known[key]

    def _attention(self, node: Node, op: Attention, beats: Beats) -> FixedTable:
        """An attention, which has ways of its own: nothing else depends on its streams' lanes."""
        types = tuple(self.graph.types[t] for t in node.inputs)
        lanes = beats.lanes[node.name]
        key = (Attention, types, lanes, op.heads, op.kv_heads, op.causal, op.reciprocal_bits,
               op.output.bits, op.step.multiplier.tobytes(), op.step.shift[0], op.windows,
               *(None if x is None else x.tobytes() for x in (op.bias, op.hidden)))
        if key not in self._known:
            streams = [StreamType(type) for type in types]
            self._known[key] = attention_table(op, streams, lanes, self.board)
        return self._known[key]

    def _matmul(self, node: Node, op: MatMul, beats: Beats) -> FixedTable:
        """A product of two streams; what it takes depends on little but their extents."""
        types, lanes, rule = tuple(self.graph.types[t] for t in node.inputs), beats.lanes[
            node.name], op.requantise
        key = (MatMul, types, lanes, op.heads, op.form, op.windows, op.output.bits,
               rule.multiplier.tobytes(), rule.shift.tobytes(), rule.multiplier_bits,
               None if rule.offset is None else rule.offset.tobytes())
        if key not in self._known:
            streams = [StreamType(type) for type in types]
            self._known[key] = matmul_table(op, streams, lanes, self.board)
        return self._known[key]

    def _recurrent(self, node: Node, op: Recurrent, beats: Beats) -> FixedTable:
        """A recurrent cell; its weights, and how many bits they need, are its own."""
        lanes = beats.lanes[node.name]
        key = (Recurrent, node.name, lanes)
        if key not in self._known:
            stream = StreamType(self.graph.types[node.inputs[0]])
            self._known[key] = recurrent_table(op, [stream], lanes, self.board)
        return self._known[key]

    def _scaled(self, node: Node, beats: Beats) -> FixedTable:
        """An op without weights that multiplies: by the board's multipliers, or in the fabric."""
        return self._ways(node, beats, [
            Folding(multiplier=multiplier)
            for multiplier in dict.fromkeys((self.board.multiplier, "fabric"))])

    def _embedding(self, node: Node, beats: Beats, external: External | None) -> FixedTable:
        """An embedding, whose table is in any kind of memory that there is."""
        styles = [*STYLES[: 3 if self.board.uram else 2], *[OFF_CHIP] * (external is not None)]
        return self._ways(node, beats, [Folding(weight_style=style) for style in styles],
                          external.ports if external else None)

    def _ways(
        self, node: Node, beats: Beats, foldings: Sequence[Folding],
        ports: MemoryPorts | None = None,
    ) -> FixedTable:
        """An op whose foldings differ in what they take; those that are not possible are left out.
        """
        inputs = tuple(beats.stream(t, self.graph.types[t]) for t in node.inputs)
        columns = []
        for folding in foldings:
            try:
                config = block_config(node.op, inputs, folding, beats.lanes[node.name],
                                      beats.pixels[node.name], ports)
            except HwgenError:
                if folding.weight_style != OFF_CHIP:
                    raise
                continue
            takes, cycles = vector(config.resources(self.board.family)), 0
            if config.offchip is not None and ports is not None:
                takes[BANDWIDTH] = config.offchip.moved(ports.axi.word_bytes)
                cycles = config.interval
            columns.append(Column(Amounts(*takes), cycles, folding))
        # The rest of it is counted with all that the tables miss.
        least = np.minimum.reduce([np.array(c.takes) for c in columns])
        return FixedTable([
            replace(c, takes=Amounts(*(np.array(c.takes) - least))) for c in columns])


def _geometry(conv: Convolution, tensor: TensorType) -> tuple:
    """What foldings of a convolution depend on, beside its streams."""
    return (
        type(conv), conv.window, conv.repeat, conv.crop, conv.groups, conv.cout,
        conv.weight.shape[-1], conv.weight_bits, conv.weight_limit, tensor.shape, tensor.bits,
        signed_width(*conv.accumulator_range(tensor)), conv.requantise.multiplier_bits,
        int(conv.requantise.shift.min()), conv.output.bits,
    )
