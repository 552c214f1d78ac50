"""Reading ONNX: checked, its shape fixed, constants and normalisations folded, heads cut."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx import numpy_helper, shape_inference

from hwgen.errors import HwgenError

__all__ = ["Network", "attributes", "normalise", "read", "session"]

LAYOUT = {"Reshape", "Transpose"}
"""Ops that only rearrange: after the last convolution they are the host's work."""
WEIGHTED = {"Conv", "Gemm", "MatMul", "ConvTranspose"}


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
    """

    model: onnx.ModelProto
    nodes: list[onnx.NodeProto]
    constants: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]
    inputs: list[str]
    outputs: list[str]
    users: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.nodes:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the first input; an error if it is no image."""
        shape = self.shapes[self.inputs[0]]
        if len(shape) != 4:
            raise HwgenError(
                f"Input {self.inputs[0]!r} has shape {shape}: calibration needs an image "
                f"(1, channels, height, width)"
            )
        return shape[2], shape[3]


def attributes(node: onnx.NodeProto) -> dict:
    """Attributes of a node as plain values."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def session(model: onnx.ModelProto, **options) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU, quiet."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    for name, value in options.items():
        setattr(settings, name, value)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )


def read(path: Path, size: int | None) -> Network:
    """Read an ONNX file.

    Raises
    ------
    :exc:`HwgenError`
        If the file is missing, damaged or not a network that can be run.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HwgenError(f"{path} cannot be read: {error.strerror}") from None
    return normalise(data, str(path), size)


def normalise(data: bytes, name: str, size: int | None) -> Network:
    """Check an ONNX model, fix its input shape, fold what is constant, and cut its heads.

    Parameters
    ----------
    data : serialised ModelProto
    name : what errors call it
    size : height and width for image inputs; None: as the file says
    """
    try:
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError, TypeError) as error:
        raise HwgenError(f"{name} is not a valid ONNX file: {_first_line(error)}") from None
    _fix_inputs(model, name, size)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        try:
            session(
                model, optimized_model_filepath=path,
                graph_optimization_level=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
            )
            model = shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
        except Exception as error:  # onnxruntime raises classes of its own for every fault
            raise HwgenError(f"{name} cannot be run: {_first_line(error)}") from None
    return _cut(model, name)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _fix_inputs(model: onnx.ModelProto, name: str, size: int | None) -> None:
    """Give every input a static shape, with a batch of 1."""
    constants = {c.name for c in model.graph.initializer}
    changed = False
    for value in model.graph.input:
        if value.name in constants:
            continue
        dims = value.type.tensor_type.shape.dim
        for k, dim in enumerate(dims):
            if k == 0 and dim.dim_value != 1:
                dim.dim_value, changed = 1, True
            elif k >= 2 and len(dims) == 4 and size is not None and dim.dim_value != size:
                dim.dim_value, changed = size, True
            elif dim.dim_value < 1:
                raise HwgenError(
                    f"{name}: input {value.name!r} has no fixed extent in dimension {k}: "
                    f"give --size, or export with a static shape"
                )
    if changed:
        del model.graph.value_info[:]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")


def _cut(model: onnx.ModelProto, name: str) -> Network:
    """Take the parts of a model, without what follows the first Reshape after the last weights."""
    graph = model.graph
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    for key, value in constants.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise HwgenError(f"{name}: constant {key!r} holds NaN or infinity: mend the weights")
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(attributes(node)["value"])
    nodes = [n for n in graph.node if n.op_type != "Constant"]
    shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        shapes[value.name] = tuple(dims)
    outputs = [value.name for value in graph.output]
    # Backwards: which tensors still reach a weighted op?
    useful: set[str] = set()
    for node in reversed(nodes):
        if node.op_type in WEIGHTED or any(out in useful for out in node.output):
            useful.update(node.input)
    gone: set[str] = set()
    heads: list[str] = []
    kept = []
    for node in nodes:
        after = any(i in gone for i in node.input)
        if after or (node.op_type in LAYOUT and not any(o in useful for o in node.output)):
            heads += [i for i in node.input if i not in gone and i not in constants and i]
            gone.update(node.output)
        else:
            kept.append(node)
    outputs = [o for o in outputs if o not in gone] + heads
    outputs = list(dict.fromkeys(outputs))
    inputs = [v.name for v in graph.input if v.name not in constants]
    # What no output needs is dropped.
    needed = set(outputs)
    for node in reversed(kept):
        if any(o in needed for o in node.output):
            needed.update(node.input)
    kept = [n for n in kept if any(o in needed for o in n.output)]
    if not kept:
        raise HwgenError(f"{name} computes nothing")
    return Network(model, kept, constants, shapes, [i for i in inputs if i in needed], outputs)
