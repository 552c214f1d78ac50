"""Reads an ONNX file: checks it, fixes its shapes, folds constants, parts off the host's work."""

from __future__ import annotations

import difflib
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper

from hwgen.errors import HwgenError, HwgenWarning, reason
from hwgen.models.onnx import fused_attention
from hwgen.models.onnx.batch import to_one_frame
from hwgen.models.onnx.channel_scales import fold_channel_scales
from hwgen.models.onnx.division import Host, divide, divide_at
from hwgen.models.onnx.elements import to_float32
from hwgen.models.onnx.external import embed
from hwgen.models.onnx.foreign import write_foreign_ops
from hwgen.models.onnx.forms import simplify
from hwgen.models.onnx.fused import write_fused_ops
from hwgen.models.onnx.groups import keep_frames
from hwgen.models.onnx.ids import (
    USUAL,
    candidates,
    fixed_values,
    settle_ids,
    state_ids,
)
from hwgen.models.onnx.integers import dequantise_choices
from hwgen.models.onnx.moves import settle_moves
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import attributes, reads, rename
from hwgen.models.onnx.norms import known_forms
from hwgen.models.onnx.opsets import brought_up
from hwgen.models.onnx.order import sort_nodes
from hwgen.models.onnx.pixels import dequantise_casts
from hwgen.models.onnx.qoperator import rewrite_integer_ops
from hwgen.models.onnx.quantisers import Quantisers
from hwgen.models.onnx.recurrent import refuse_steps_first, write_cells
from hwgen.models.onnx.rewrites import written_out
from hwgen.models.onnx.session import session
from hwgen.models.onnx.shapes import (
    Size,
    check_extents,
    complete_outputs,
    first_line,
    fix_inputs,
    floor_pools,
    infer_shapes,
    stated_shapes,
    with_size,
)
from hwgen.models.onnx.states import keep_states
from hwgen.models.onnx.tables import write_tables
from hwgen.models.onnx.tokens import keep_tokens

__all__ = ["normalise", "read"]

# Imported for what it registers.
_ = fused_attention

FUSIONS = ["ConvAddFusion", "ConvBNFusion", "ConvMulFusion", "TransposeOptimizer"]
"""Optimisations that would change weights which the file states in integers."""
UNWANTED = ["MatMulAddFusion"]
"""Optimisations that fold the batch into other axes."""


def read(
    path: Path, size: Size, outputs: Sequence[str] = (), fix: Sequence[str] = (),
    keep_state: bool = False,
) -> Network:
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
    return normalise(data, str(path), size, outputs, path, fix, keep_state)


def normalise(
    data: bytes, name: str, size: Size, outputs: Sequence[str] = (),
    path: Path | None = None, fix: Sequence[str] = (), keep_state: bool = False,
) -> Network:
    """Check an ONNX model, fix its input shape, fold what is constant, and leave the host's work.

    Parameters
    ----------
    data : serialised ModelProto
    name : what errors call it
    size : height and width for image inputs, one number if they are alike, and the extent that
        inputs of other ranks leave open; None: as the file says
    outputs : tensors at which the accelerator ends; default: where only data is moved or ranked
        behind the last weights
    path : its file, if it came from one: weights may lie beside it
    fix : inputs that are constants, each as ``name=value``; see
        :func:`hwgen.models.onnx.ids.fixed_values`
    keep_state : whether recurrent cells keep their states from frame to frame; see
        :func:`hwgen.models.onnx.states.keep_states`

    Raises
    ------
    :exc:`HwgenError`
        If it is damaged, too large, or not a network that can be run.
    """
    fixed = fixed_values(fix)
    try:
        model = onnx.load_from_string(data)
        embed(model, name, path)
        sort_nodes(model)
        write_fused_ops(model, None)
        write_foreign_ops(model, name)
        model = brought_up(model, name)
        unknown = complete_outputs(model, name)
        onnx.checker.check_model(_without_quantisers(model))
    except (DecodeError, onnx.checker.ValidationError, ValueError, TypeError) as error:
        if isinstance(error, HwgenError):
            raise
        raise HwgenError(f"{name} is not a valid ONNX file: {first_line(error)}") from None
    for value in unknown:
        value.type.tensor_type.ClearField("shape")
    outer = to_float32(model)
    with _quantisers_of(name):
        rewrite_integer_ops(model)
        fold_channel_scales(model)
    dequantise_casts(model)
    with _quantisers_of(name):
        dequantise_choices(model)
    keep_states(model, name, keep_state)
    refuse_steps_first(model, name)
    fix_inputs(model, name, size, candidates(model, fixed))
    inputs = {value.name for value in model.graph.input}
    ids = settle_ids(model, name, fixed)
    inputs.difference_update(value.name for value in model.graph.input)
    with _quantisers_of(name):
        quantisers = Quantisers(model)
    known_forms(model)
    to_one_frame(model, name)
    write_fused_ops(model, stated_shapes)
    check_extents(model, name, size)
    floor_pools(model)
    given = [value.name for value in model.graph.output]
    _add_outputs(model, name, outputs)
    disabled = FUSIONS if quantisers.weights else []
    model = _folded(model, name, size, disabled)
    stated = {*quantisers.codes, *quantisers.inner, *quantisers.weights}
    written = write_tables(model, name, ids)
    written |= simplify(model, stated)
    if keep_tokens(model, quantisers.inner, quantisers.weights) or written:
        model = _folded(model, name, size, disabled)
    model = _distinct(model)
    settle_moves(model, stated)
    write_cells(model, keep_state)
    keep_frames(model, quantisers.weights)
    typed = {o: (helper.make_node("Cast", [o], [o], to=kind), kind) for o, kind in outer.items()}
    typed |= quantisers.integer_outputs
    network = _divided(model, name, given, outputs, typed)
    network.integer_inputs.update(
        (i, c) for i, c in quantisers.integer_inputs.items() if i in network.inputs)
    network.codes.update((t, q) for t, q in quantisers.codes.items() if t in network.shapes)
    network.inner.update(quantisers.inner)
    network.keep_state = keep_state
    network.weights.update(
        (c, w) for c, w in quantisers.weights.items() if c in network.constants)
    state_ids(network, name, ids)
    network.fixed.update((each, fixed.get(each) or USUAL[each]) for each in sorted(inputs))
    network = written_out(network)
    _check_finite(network, name)
    return network


@contextmanager
def _quantisers_of(name: str) -> Iterator[None]:
    """Name the file in what is wrong with its quantisers."""
    try:
        yield
    except HwgenError as error:
        raise HwgenError(f"{name}: {error}") from None
    except Exception as error:
        raise HwgenError(f"{name} has a damaged quantiser: {first_line(error)}") from None


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
    model: onnx.ModelProto, name: str, size: Size, disabled: list[str]
) -> onnx.ModelProto:
    """The model with constants folded and shapes inferred, by onnxruntime and onnx."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        try:
            folded = model
            for _ in range(2):
                session(
                    folded, [*UNWANTED, *disabled], optimized_model_filepath=path,
                    graph_optimization_level=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
                )
                folded = onnx.load(path)
                if not _constants_left(folded):
                    break
            floor_pools(folded)
            found = infer_shapes(folded, strict_mode=True)
        except Exception as error:  # onnxruntime raises classes of its own for every fault
            why = first_line(error)
            for node in model.graph.node:
                if f"{node.domain}:{node.op_type}(" in why and "not a registered" in why:
                    raise HwgenError(
                        f"{name}: Node {node.name or node.output[0]!r} ({node.op_type}): nobody "
                        f"knows this op of the domain {node.domain!r}: export without it, or cut "
                        f"the file in front of it (onnx.utils.extract_model)") from None
            raise HwgenError(f"{name} cannot be run{with_size(size)}: {why}" + (
                f"; onnxruntime {onnxruntime.__version__}, with which files are read, does not "
                f"compute it: export with an older opset" if "NOT_IMPLEMENTED" in why else ""
            )) from None
    _drop_unread(folded, name)
    del folded.graph.value_info[:]
    folded.graph.value_info.extend(found.graph.value_info)
    for output, other in zip(folded.graph.output, found.graph.output, strict=True):
        output.CopyFrom(other)
    return folded


def _constants_left(model: onnx.ModelProto) -> bool:
    """Whether a node has only constants as inputs: ops that are functions are written out late."""
    constants = {c.name for c in model.graph.initializer}
    return any(node.input and constants.issuperset(reads(node)) for node in model.graph.node)


def _drop_unread(model: onnx.ModelProto, name: str) -> None:
    """Remove inputs that no output depends on, with a warning for each."""
    read = {value.name for value in model.graph.output}
    for node in reversed(model.graph.node):
        if read.intersection(node.output):
            read.update(reads(node))
        else:
            model.graph.node.remove(node)
    for value in list(model.graph.input):
        if value.name not in read:
            warnings.warn(f"{name}: no output depends on input {value.name!r}: the accelerator has "
                          f"no such input", HwgenWarning, stacklevel=2)
            model.graph.input.remove(value)


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
    typed: Mapping[str, tuple[onnx.NodeProto, int]],
) -> Network:
    """The network of a model, divided between accelerator and host.

    Parameters
    ----------
    model : with constants folded and shapes inferred
    name : what errors call it
    given : outputs of the file
    chosen : outputs of the accelerator, if the user says so
    typed : outputs of the file that are not float32, to the node that makes them of such, and
        their ONNX element type
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
            o, typed[o][1] if o in typed else kinds.get(o, onnx.TensorProto.FLOAT), shapes[o])
         for o in given],
        {t: kinds[t] for t in parts.outputs if t in kinds},
        {name: node for name, (node, _) in typed.items()},
    )
    return Network(
        model, kept, constants, shapes, [i for i in inputs if i in needed], parts.outputs,
        host=host,
    )


def _constants(graph: onnx.GraphProto, name: str) -> dict[str, np.ndarray]:
    """The constants of a graph by name; none may be NaN."""
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    for key, value in constants.items():
        if value.dtype.kind == "f" and np.isnan(value).any():
            raise HwgenError(f"{name}: constant {key!r} holds NaN: mend the weights")
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(attributes(node)["value"])
    return constants


def _check_finite(network: Network, name: str) -> None:
    """Refuse infinite constants, but for the bounds of a clip and the masks of attention."""
    inside = network.absorbed
    for node in network.nodes:
        if node.op_type in ("Clip", "Min", "Max", "Pad") or node.output[0] in inside:
            continue
        for key in node.input:
            value = network.constants.get(key)
            if value is not None and value.dtype.kind == "f" and not np.isfinite(value).all():
                raise HwgenError(f"{name}: constant {key!r} is infinite: mend the weights")


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
