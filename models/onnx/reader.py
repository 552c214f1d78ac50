"""Reads an ONNX file: checks it, fixes its shapes, folds constants, parts off the host's work."""

from __future__ import annotations

import difflib
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper

from hwgen.errors import HwgenError, HwgenWarning, reason
from hwgen.models.onnx.division import Host, divide, divide_at
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import attributes, rename
from hwgen.models.onnx.norms import known_forms
from hwgen.models.onnx.quantisers import Quantisers
from hwgen.models.onnx.rewrites import written_out
from hwgen.models.onnx.session import session
from hwgen.models.onnx.shapes import (
    check_extents,
    first_line,
    fix_inputs,
    floor_pools,
    infer_shapes,
    turn_inputs,
    with_size,
)

__all__ = ["normalise", "read"]

OPSETS = 9, onnx.defs.onnx_opset_version()
"""Operator sets that are read."""
FUSIONS = ["ConvAddFusion", "ConvBNFusion", "ConvMulFusion"]
"""Optimisations that would change weights which the file states in integers."""
UNWANTED = ["MatMulAddFusion"]
"""Optimisations that fold the batch into other axes."""


def read(path: Path, size: int | None, outputs: Sequence[str] = ()) -> Network:
    """Read an ONNX file; see :func:`normalise`.

    Raises
    ------
    :exc:`HwgenError`
        If the file is missing, damaged or not a network that can be run.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HwgenError(f"{path} cannot be read: {reason(error)}") from None
    return normalise(data, str(path), size, outputs)


def normalise(
    data: bytes, name: str, size: int | None, outputs: Sequence[str] = ()
) -> Network:
    """Check an ONNX model, fix its input shape, fold what is constant, and leave the host's work.

    Parameters
    ----------
    data : serialised ModelProto
    name : what errors call it
    size : height and width for image inputs; None: as the file says
    outputs : tensors at which the accelerator ends; default: where only data is moved or ranked
        behind the last weights

    Raises
    ------
    :exc:`HwgenError`
        If it is damaged, too large, or not a network that can be run.
    """
    try:
        model = onnx.load_from_string(data)
        _check_opset(model, name)
        plain = _without_quantisers(model)
        onnx.checker.check_model(data if plain is model else plain)
    except (DecodeError, onnx.checker.ValidationError, ValueError, TypeError) as error:
        if isinstance(error, HwgenError):
            raise
        raise HwgenError(f"{name} is not a valid ONNX file: {first_line(error)}") from None
    turn_inputs(model)
    fix_inputs(model, name, size)
    try:
        quantisers = Quantisers(model)
    except HwgenError as error:
        raise HwgenError(f"{name}: {error}") from None
    except Exception as error:
        raise HwgenError(f"{name} has a damaged quantiser: {first_line(error)}") from None
    check_extents(model, name, size)
    floor_pools(model)
    known_forms(model)
    given = [value.name for value in model.graph.output]
    _add_outputs(model, name, outputs)
    model = _folded(model, name, size, FUSIONS if quantisers.weights else [])
    network = _divided(_distinct(model), name, given, outputs, quantisers.integer_outputs)
    network.codes.update((t, q) for t, q in quantisers.codes.items() if t in network.shapes)
    network.inner.update(quantisers.inner)
    network.weights.update(
        (c, w) for c, w in quantisers.weights.items() if c in network.constants)
    return written_out(network)


def _check_opset(model: onnx.ModelProto, name: str) -> None:
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    low, high = OPSETS
    if not versions and not model.graph.node:
        raise HwgenError(f"{name} is not a valid ONNX file: it holds no network")
    if not versions or not low <= versions[0] <= high:
        raise HwgenError(
            f"{name} is written in ONNX opset {versions[0] if versions else 'none'}; opsets "
            f"{low} to {high} are read: export or convert it (onnx.version_converter)"
        )


def _without_quantisers(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as the checker knows it: ops of QONNX belong to none of its domains."""
    if not any(node.op_type in ("Quant", "IntQuant", "BipolarQuant", "Trunc")
               for node in model.graph.node):
        return model
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for node in plain.graph.node:
        if node.op_type in ("Quant", "IntQuant", "BipolarQuant", "Trunc"):
            node.CopyFrom(helper.make_node("Identity", [node.input[0]], list(node.output)))
    return plain


def _folded(
    model: onnx.ModelProto, name: str, size: int | None, disabled: list[str]
) -> onnx.ModelProto:
    """The model with constants folded and shapes inferred, by onnxruntime and onnx."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        try:
            session(
                model, [*UNWANTED, *disabled], optimized_model_filepath=path,
                graph_optimization_level=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
            )
            folded = onnx.load(path)
            floor_pools(folded)
            found = infer_shapes(folded, strict_mode=True)
        except Exception as error:  # onnxruntime raises classes of its own for every fault
            raise HwgenError(
                f"{name} cannot be run{with_size(size)}: {first_line(error)}") from None
    _drop_unread(folded, name)
    del folded.graph.value_info[:]
    folded.graph.value_info.extend(found.graph.value_info)
    for output, other in zip(folded.graph.output, found.graph.output, strict=True):
        output.CopyFrom(other)
    return folded


def _drop_unread(model: onnx.ModelProto, name: str) -> None:
    """Remove inputs that no output depends on, with a warning for each."""
    read = {value.name for value in model.graph.output}
    for node in reversed(model.graph.node):
        if read.intersection(node.output):
            read.update(_inputs(node))
        else:
            model.graph.node.remove(node)
    for value in list(model.graph.input):
        if value.name not in read:
            warnings.warn(f"{name}: no output depends on input {value.name!r}: the accelerator has "
                          f"no such input", HwgenWarning, stacklevel=2)
            model.graph.input.remove(value)


def _inputs(node: onnx.NodeProto) -> set[str]:
    """Tensors that a node reads, in its subgraphs too."""
    return set(node.input).union(*(
        _inputs(inner) for attribute in node.attribute
        for graph in (attribute.g, *attribute.graphs) for inner in graph.node))


def _distinct(model: onnx.ModelProto) -> onnx.ModelProto:
    """Merge the DequantizeLinear nodes of a tensor: some tools write one for each reader."""
    first: dict[tuple[str, ...], str] = {}
    renamed: dict[str, str] = {}
    outputs = {o.name for o in model.graph.output}
    kept = []
    for node in model.graph.node:
        rename(node, renamed)
        if node.op_type == "DequantizeLinear" and node.output[0] not in outputs:
            key = tuple(node.input)
            if key in first:
                renamed[node.output[0]] = first[key]
                continue
            first[key] = node.output[0]
        kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    if renamed:
        del model.graph.node[:]
        model.graph.node.extend(kept)
    return model


def _add_outputs(model: onnx.ModelProto, name: str, outputs: Sequence[str]) -> None:
    """Make the chosen tensors outputs, so that they stay whatever is folded.

    Raises
    ------
    :exc:`HwgenError`
        If one is unknown, constant, an input, or named twice.
    """
    made = [out for node in model.graph.node for out in node.output if out]
    have = {value.name for value in model.graph.output}
    for k, tensor in enumerate(outputs):
        if tensor in outputs[:k]:
            raise HwgenError(f"Output {tensor!r} is named twice")
        if tensor not in made:
            near = difflib.get_close_matches(tensor, made, 3)
            like = "those with names like it are" if near else "its last ones are"
            raise HwgenError(f"{name} has no tensor {tensor!r} that could be an output; {like} "
                             f"{', '.join(map(repr, near or made[-3:]))}")
        if tensor not in have:
            model.graph.output.append(onnx.ValueInfoProto(name=tensor))


def _divided(
    model: onnx.ModelProto, name: str, given: Sequence[str], chosen: Sequence[str],
    integers: Mapping[str, tuple[onnx.NodeProto, int]],
) -> Network:
    """The network of a model, divided between accelerator and host.

    Parameters
    ----------
    model : with constants folded and shapes inferred
    name : what errors call it
    given : outputs of the file
    chosen : outputs of the accelerator, if the user says so
    integers : see :attr:`hwgen.models.onnx.quantisers.Quantisers.integer_outputs`
    """
    graph = model.graph
    constants = _constants(graph, name)
    nodes = [n for n in graph.node if n.op_type != "Constant"]
    shapes, kinds = _stated(graph)
    inputs = [v.name for v in graph.input if v.name not in constants]
    if chosen:
        parts = divide_at(nodes, constants, inputs, given, chosen)
    else:
        parts = divide(nodes, constants, given)
    # What no output needs is dropped.
    needed = set(parts.outputs)
    for node in reversed(parts.kept):
        if any(o in needed for o in node.output):
            needed.update(node.input)
    kept = [n for n in parts.kept if any(o in needed for o in n.output)]
    if not kept:
        kinds_of = ", ".join(sorted({n.op_type for n in nodes})) or "no nodes"
        raise HwgenError(f"{name} computes nothing that is not the host's work: {kinds_of}")
    host = Host(
        parts.host,
        [helper.make_tensor_value_info(
            o, integers[o][1] if o in integers else kinds.get(o, onnx.TensorProto.FLOAT), shapes[o])
         for o in given],
        {t: kinds[t] for t in parts.outputs if t in kinds},
        {name: node for name, (node, _) in integers.items()},
    )
    return Network(
        model, kept, constants, shapes, [i for i in inputs if i in needed], parts.outputs,
        host=host,
    )


def _constants(graph: onnx.GraphProto, name: str) -> dict[str, np.ndarray]:
    """The constants of a graph by name; they must be finite, but for the bounds of a clip."""
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    bounds = {i for n in graph.node if n.op_type in ("Clip", "Min", "Max", "Pad") for i in n.input}
    for key, value in constants.items():
        if value.dtype.kind == "f" and (
                np.isnan(value) if key in bounds else ~np.isfinite(value)).any():
            raise HwgenError(f"{name}: constant {key!r} holds NaN or infinity: mend the weights")
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(attributes(node)["value"])
    return constants


def _stated(graph: onnx.GraphProto) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """The shapes of the tensors, and the element types of those that are not float."""
    shapes, kinds = {}, {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        if value.name not in shapes or dims:
            shapes[value.name] = dims
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            kinds[value.name] = value.type.tensor_type.elem_type
    return shapes, kinds
