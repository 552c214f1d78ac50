"""Ops that no handler knows, written out in simpler ones before anything is calibrated.

Float nodes that compute the same take their place, so that ranges, tables, broadcasts and blocks
come from what there is for those.  What an op becomes is said by a rewrite, in the modules that
are imported here; a rewrite registers with :func:`hwgen.models.onnx.writer.rewrites`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import onnx
from onnx import numpy_helper

from hwgen.models.onnx import norms, several
from hwgen.models.onnx.attention import find_attention, residual_tensors, score_tensors
from hwgen.models.onnx.layer_norms import find_norms, normalised_tensors
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.norm_scales import scales_taken
from hwgen.models.onnx.norms import within_norms
from hwgen.models.onnx.recurrent import cell_tensors
from hwgen.models.onnx.shapes import infer_shapes
from hwgen.models.onnx.writer import REWRITES, Writer

__all__ = ["written_out"]

# Imported for the rewrites that they register.
_ = norms, several


def written_out(network: Network) -> Network:
    """A network whose nodes are written out where a rewrite says so; its host's part stays."""
    instead: dict[str, Writer] = {}
    found = find_attention(network.model, network.nodes, network.constants, network.shapes)
    network = replace(network, attention=found, users={})
    transforms = any(node.op_type == "MatMul" and network.constants.keys().isdisjoint(node.input)
                     for node in network.nodes)
    residuals = residual_tensors(
        network.nodes, network.constants, network.shapes) if transforms else ()
    whole = network.absorbed
    for node in network.nodes:
        known = node.domain in ("", "ai.onnx") and node.output[0] not in whole
        rewrite = REWRITES.get(node.op_type) if known else None
        writer = Writer(network, node)
        result = rewrite(writer, node) if rewrite else None
        if result is not None:
            _end(writer, node, result)
            instead[node.output[0]] = writer
    network = _replaced(network, instead)
    kept = {*network.outputs, *network.codes}
    patterns = find_norms(network.nodes, network.constants, network.shapes, kept)
    network = replace(network, norms=patterns, users={})
    taken = scales_taken(network)
    for writer in taken.values():
        _end(writer, writer.node, writer.nodes[-1].output[0])
    network = _replaced(network, taken)
    sums, _ = cell_tensors(network.nodes)
    fine = within_norms(network).union(residuals, sums, *(w.fine for w in instead.values()))
    fine |= normalised_tensors(patterns.values(), network.nodes, {*network.inputs, *kept})
    fine |= score_tensors(network.nodes, network.constants, network.absorbed)
    # What is normalised has a range that all codes serve: 8 bits are enough for layers.
    return replace(network, fine=fine - {*network.inputs, *network.outputs, *patterns}, users={})


def _end(writer: Writer, node: onnx.NodeProto, result: str) -> None:
    """Give the result of what was written the name that the node's had."""
    made = writer.nodes[-1] if writer.nodes else None
    if made is None or made.output[0] != result:
        writer.op("Identity", result)
        made = writer.nodes[-1]
    writer.fine.discard(made.output[0])
    made.output[0] = node.output[0]
    made.name = node.name or node.output[0]


def _replaced(network: Network, instead: dict[str, Writer]) -> Network:
    """The network with other nodes for those that make certain tensors, in its model too."""
    if not instead:
        return network
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    every = [part for node in model.graph.node for part in (
        instead[node.output[0]].nodes if node.output[0] in instead else [node])]
    every = [onnx.NodeProto.FromString(node.SerializeToString()) for node in every]
    kept = [part for node in network.nodes for part in (
        instead[node.output[0]].nodes if node.output[0] in instead else [node])]
    constants = dict(network.constants)
    for writer in instead.values():
        constants |= writer.constants
        model.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in writer.constants.items())
    del model.graph.node[:]
    model.graph.node.extend(every)
    found = infer_shapes(model).graph
    shapes = dict(network.shapes)
    for value in found.value_info:
        shapes.setdefault(
            value.name, tuple(d.dim_value for d in value.type.tensor_type.shape.dim))
    have = {value.name for value in model.graph.value_info}
    model.graph.value_info.extend(v for v in found.value_info if v.name not in have)
    return replace(
        network, model=model, nodes=_read(kept, network.outputs), constants=constants,
        shapes=shapes, users={})


def _read(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that outputs depend on."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]
