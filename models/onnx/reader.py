"""Reading ONNX: checked, its shape fixed, constants and normalisations folded, heads cut."""

from __future__ import annotations

import difflib
import math
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper, shape_inference

from hwgen.errors import HwgenError, HwgenWarning, reason
from hwgen.ir import Quantisation
from hwgen.models.onnx.division import WEIGHTED, Host, divide, divide_at
from hwgen.models.onnx.quantisers import INTEGERS, CodedConstant, Quantisers

__all__ = ["WEIGHTED", "Network", "attributes", "normalise", "read", "session"]

ELEMENTS = 1 << 28
"""Most elements of a tensor."""
OPSETS = 9, onnx.defs.onnx_opset_version()
"""Operator sets that are read."""
FUSIONS = ["ConvAddFusion", "ConvBNFusion", "ConvMulFusion"]
"""Optimisations that would change weights which the file states in integers."""
UNWANTED = ["MatMulAddFusion"]
"""Optimisations that fold the batch into other axes."""


@dataclass
class Network:
    """A float network: ONNX nodes in topological order, constants, and the shapes of tensors.

    Members
    -------
    model : the ONNX model, for running it
    nodes : its nodes
    constants : name to array
    shapes : name to shape, NCHW with a batch of 1
    inputs, outputs : tensor names
    codes : float tensor to the quantisation whose values alone it takes, if the file says so
    weights : constant to its integers, if the file states them
    inner : tensors inside of a quantiser that takes several nodes
    host : what is left to the host
    users : tensor to the nodes that read it
    """

    model: onnx.ModelProto
    nodes: list[onnx.NodeProto]
    constants: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]
    inputs: list[str]
    outputs: list[str]
    codes: dict[str, Quantisation] = field(default_factory=dict)
    weights: dict[str, CodedConstant] = field(default_factory=dict)
    inner: set[str] = field(default_factory=set)
    host: Host = field(default_factory=Host)
    users: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.nodes:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def with_constants(
        self, arrays: Mapping[str, np.ndarray],
        weights: Mapping[str, CodedConstant] | None = None,
    ) -> Network:
        """The network with other values for some of its constants, in its model too.

        Parameters
        ----------
        arrays : by name
        weights : integers that some of them stand for
        """
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for value in model.graph.initializer:
            if value.name in arrays:
                kind = helper.tensor_dtype_to_np_dtype(value.data_type)
                array = np.ascontiguousarray(arrays[value.name], kind)
                value.CopyFrom(numpy_helper.from_array(array, value.name))
        return replace(
            self, model=model, constants={**self.constants, **arrays},
            weights={**self.weights, **(weights or {})}, users={},
        )


def attributes(node: onnx.NodeProto) -> dict:
    """Attributes of a node as plain values."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def session(
    model: onnx.ModelProto, disabled: Sequence[str] = (), **options
) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU, quiet.

    Parameters
    ----------
    model : what to run
    disabled : names of optimisations that are left out
    options : attributes of :class:`onnxruntime.SessionOptions`
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    # Quantisers mean what they say: no moving them about.
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    for name, value in options.items():
        setattr(settings, name, value)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"],
        disabled_optimizers=list(disabled) or None,
    )


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
        raise HwgenError(f"{name} is not a valid ONNX file: {_first_line(error)}") from None
    _turn_inputs(model)
    _fix_inputs(model, name, size)
    try:
        quantisers = Quantisers(model)
    except HwgenError as error:
        raise HwgenError(f"{name}: {error}") from None
    except Exception as error:
        raise HwgenError(f"{name} has a damaged quantiser: {_first_line(error)}") from None
    _check_extents(model, name, size)
    _floor_pools(model)
    given = [value.name for value in model.graph.output]
    _add_outputs(model, name, outputs)
    model = _folded(model, name, size, FUSIONS if quantisers.weights else [])
    network = _divided(_distinct(model), name, given, outputs, quantisers.integer_outputs)
    network.codes.update((t, q) for t, q in quantisers.codes.items() if t in network.shapes)
    network.inner.update(quantisers.inner)
    network.weights.update(
        (c, w) for c, w in quantisers.weights.items() if c in network.constants)
    return network


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


def _sized(size: int | None) -> str:
    return f" with images of {size} x {size}, the size that was given" if size else ""


def _check_extents(model: onnx.ModelProto, name: str, size: int | None) -> None:
    """Refuse tensors that are empty or too large, before anything allocates them."""
    for constant in model.graph.initializer:
        if math.prod(constant.dims) > ELEMENTS:
            raise HwgenError(f"{name}: constant {constant.name!r} of {list(constant.dims)} is "
                             f"too large")
    try:
        shaped = _shaped(model)
    except Exception as error:
        raise HwgenError(f"{name} is inconsistent{_sized(size)}: {_first_line(error)}") from None
    for value in (*shaped.graph.input, *shaped.graph.value_info, *shaped.graph.output):
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value")]
        if math.prod(dims) > ELEMENTS or any(d < 0 for d in dims):
            raise HwgenError(f"{name}: tensor {value.name!r} of {dims} is too large")
        if 0 in dims:
            raise HwgenError(f"{name}: tensor {value.name!r} of {dims} is empty")


def _floor_pools(model: onnx.ModelProto) -> None:
    """Mend pools with ``ceil_mode`` whose extents shape inference of ONNX would make too large.

    A window that would begin in the padding behind the frame is left out, as PyTorch and
    onnxruntime do.  Along such an axis extents are those without ``ceil_mode``.
    """
    nodes = [n for n in model.graph.node
             if "Pool" in n.op_type and attributes(n).get("ceil_mode")]
    while nodes:
        # Once more after each that has changed: extents behind it are others then.
        shapes = {
            v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
            for graph in (_shaped(model).graph,)
            for v in (*graph.input, *graph.value_info)
        }
        for node in list(nodes):
            nodes.remove(node)
            if _floored(node, shapes.get(node.input[0], [])):
                del model.graph.value_info[:]
                for value in model.graph.output:
                    value.type.tensor_type.ClearField("shape")
                break


def _floored(node: onnx.NodeProto, shape: list[int]) -> bool:
    """Whether a pool with ``ceil_mode`` leaves windows out; it is plain from now on then."""
    at = attributes(node)
    kernel = at["kernel_shape"]
    ones, rank = [1] * len(kernel), len(kernel)
    pads = list(at.get("pads", [0, 0] * rank))
    if len(shape) != rank + 2 or not all(shape[2:]) or at.get("auto_pad", b"NOTSET") != b"NOTSET":
        return False
    left_out = False
    for axis, (n, k, s, d) in enumerate(zip(
        shape[2:], kernel, at.get("strides", ones), at.get("dilations", ones), strict=True
    )):
        before, after, reach = pads[axis], pads[rank + axis], (k - 1) * d + 1
        last = -(-(n + before + after - reach) // s)
        if last * s >= n + before:
            left_out = True
        else:
            pads[rank + axis] = max(after, last * s + reach - n - before)
    if not left_out:
        return False
    extended = pads != list(at.get("pads", [0, 0] * rank))
    if extended and (at.get("count_include_pad")
                     or any(p >= k for p, k in zip(pads, [*kernel, *kernel], strict=True))):
        raise HwgenError(
            f"Node {node.name or node.output[0]!r} ({node.op_type}): ceil_mode leaves windows out "
            f"along one axis and adds some along another; with count_include_pad = 1, or with "
            f"dilations, that is not supported"
        )
    for attribute in list(node.attribute):
        if attribute.name in ("ceil_mode", "pads"):
            node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute("pads", pads))
    return True


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
            _floor_pools(folded)
            shaped = _shaped(folded, strict_mode=True)
        except Exception as error:  # onnxruntime raises classes of its own for every fault
            raise HwgenError(
                f"{name} cannot be run{_sized(size)}: {_first_line(error)}") from None
    _drop_unread(folded, name)
    del folded.graph.value_info[:]
    folded.graph.value_info.extend(shaped.graph.value_info)
    for output, other in zip(folded.graph.output, shaped.graph.output, strict=True):
        output.CopyFrom(other)
    return folded


def _drop_unread(model: onnx.ModelProto, name: str) -> None:
    """Take away inputs that no output depends on, and say so."""
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


def _shaped(model: onnx.ModelProto, **options) -> onnx.ModelProto:
    """A model with its shapes inferred, and without its large constants, which would be copied."""
    bare = onnx.ModelProto()
    graph = bare.graph
    bare.ir_version = max(model.ir_version, 4)
    bare.opset_import.extend(model.opset_import)
    bare.functions.extend(model.functions)
    graph.name = model.graph.name
    for part in ("node", "input", "output", "value_info"):
        getattr(graph, part).extend(getattr(model.graph, part))
    for constant in model.graph.initializer:
        if math.prod(constant.dims) < 1024:
            graph.initializer.append(constant)
        else:
            graph.input.append(helper.make_tensor_value_info(
                constant.name, constant.data_type, list(constant.dims)))
    return shape_inference.infer_shapes(bare, data_prop=True, **options)


def _distinct(model: onnx.ModelProto) -> onnx.ModelProto:
    """One DequantizeLinear for each QuantizeLinear: some tools write one for each reader."""
    first: dict[tuple[str, ...], str] = {}
    renamed: dict[str, str] = {}
    outputs = {o.name for o in model.graph.output}
    kept = []
    for node in model.graph.node:
        for k, tensor in enumerate(node.input):
            node.input[k] = renamed.get(tensor, tensor)
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


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _turn_inputs(model: onnx.ModelProto) -> None:
    """Inputs with channels last, turned at once as TensorFlow's exporters do, get them first.

    The stream has channels last either way; what else reads an input keeps it as it is.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for tensor in node.input:
            readers.setdefault(tensor, []).append(node)
    outputs = {value.name for value in model.graph.output}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        turn = [0, len(dims) - 1, *range(1, len(dims) - 1)]
        turned = readers.get(value.name, [])
        if len(dims) < 3 or not turned or any(
            node.op_type != "Transpose" or list(attributes(node).get("perm", ())) != turn
            or node.output[0] in outputs for node in turned
        ):
            continue
        extents = [onnx.TensorShapeProto.Dimension.FromString(dims[k].SerializeToString())
                   for k in turn]
        del dims[:]
        dims.extend(extents)
        for node in turned:
            for reader in readers.get(node.output[0], []):
                for k, tensor in enumerate(reader.input):
                    if tensor == node.output[0]:
                        reader.input[k] = value.name
            model.graph.node.remove(node)
        del model.graph.value_info[:]


def _fix_inputs(model: onnx.ModelProto, name: str, size: int | None) -> None:
    """Give every input a static shape, with a batch of 1; constants are none."""
    constants = {c.name for c in model.graph.initializer}
    inputs = [onnx.ValueInfoProto.FromString(value.SerializeToString())
              for value in model.graph.input if value.name not in constants]
    if len(inputs) < len(model.graph.input):
        # Before version 4 of the format constants had to be inputs as well.
        model.ir_version = max(model.ir_version, 4)
        del model.graph.input[:]
        model.graph.input.extend(inputs)
    if size is not None and not any(
            len(value.type.tensor_type.shape.dim) == 4 for value in inputs):
        raise HwgenError(f"{name} has no image as input (batch, channels, height, width), so no "
                         f"size can be given")
    coded = {n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    changed = False
    for value in model.graph.input:
        kind = value.type.tensor_type.elem_type
        if kind != onnx.TensorProto.FLOAT and not (kind in INTEGERS and value.name in coded):
            known = onnx.TensorProto.DataType.Name(kind) if kind else "no tensor"
            raise HwgenError(f"{name}: input {value.name!r} is {known}: only FLOAT inputs, or "
                             f"integers behind which a DequantizeLinear stands, are read")
        dims = value.type.tensor_type.shape.dim
        for k, dim in enumerate(dims):
            if k == 0 and dim.dim_value != 1:
                if dim.dim_value > 1:
                    warnings.warn(
                        f"{name}: input {value.name!r} has a batch of {dim.dim_value}: frames go "
                        f"through one by one, and the batch is 1", HwgenWarning, stacklevel=2)
                dim.dim_value, changed = 1, True
            elif k >= 2 and len(dims) == 4 and size is not None and dim.dim_value != size:
                dim.dim_value, changed = size, True
            elif dim.dim_value < 1:
                sized = len(dims) == 4 and k >= 2
                raise HwgenError(
                    f"{name}: input {value.name!r} has no fixed extent in dimension {k}: "
                    f"{'give --size, or ' if sized else ''}export with a static shape"
                )
    if changed:
        del model.graph.value_info[:]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")


def _add_outputs(model: onnx.ModelProto, name: str, outputs: Sequence[str]) -> None:
    """Make tensors outputs, so that they stay whatever is folded."""
    made = [out for node in model.graph.node for out in node.output if out]
    have = {value.name for value in model.graph.output}
    for tensor in dict.fromkeys(outputs):
        if tensor not in made:
            near = difflib.get_close_matches(tensor, made, 3) or made[-3:]
            raise HwgenError(
                f"{name} has no tensor {tensor!r} that could be an output; it has "
                f"{', '.join(map(repr, near))}, ..."
            )
        if tensor not in have:
            model.graph.output.append(onnx.ValueInfoProto(name=tensor))


def _divided(
    model: onnx.ModelProto, name: str, given: Sequence[str], chosen: Sequence[str],
    integers: Mapping[str, tuple[onnx.NodeProto, int]],
) -> Network:
    """Take the parts of a model, divided between accelerator and host.

    ``given``: the file's outputs; ``chosen``: those of the accelerator, if the user says so.
    """
    graph = model.graph
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    # A clip may be open on a side.
    bounds = {i for n in graph.node if n.op_type in ("Clip", "Min", "Max", "Pad") for i in n.input}
    for key, value in constants.items():
        if value.dtype.kind == "f" and (
                np.isnan(value) if key in bounds else ~np.isfinite(value)).any():
            raise HwgenError(f"{name}: constant {key!r} holds NaN or infinity: mend the weights")
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(attributes(node)["value"])
    nodes = [n for n in graph.node if n.op_type != "Constant"]
    shapes, kinds = {}, {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        if value.name not in shapes or dims:
            shapes[value.name] = dims
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            kinds[value.name] = value.type.tensor_type.elem_type
    inputs = [v.name for v in graph.input if v.name not in constants]
    if chosen:
        parts = divide_at(nodes, constants, inputs, given, list(dict.fromkeys(chosen)))
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
