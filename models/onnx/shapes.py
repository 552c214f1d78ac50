"""Shapes of a model's tensors: inputs made static, extents inferred and checked."""

from __future__ import annotations

import math
from collections.abc import Collection

import onnx
from onnx import helper, shape_inference

from hwgen.errors import HwgenError
from hwgen.models.onnx.nodes import attributes
from hwgen.models.onnx.quantisers import INTEGERS

__all__ = [
    "Size", "check_extents", "complete_outputs", "first_line", "fix_inputs", "floor_pools",
    "infer_shapes", "stated_shapes", "with_size",
]

Size = int | tuple[int, int] | None
"""Height and width of images, one number if they are alike, and what else is left open; or None."""

ELEMENTS = 1 << 28
"""Most elements of a tensor."""


def complete_outputs(model: onnx.ModelProto, name: str) -> list[onnx.ValueInfoProto]:
    """Give outputs the types and shapes that the file leaves out, as far as they follow from it.

    Returns
    -------
    outputs whose shape is not known before its inputs' are, and empty for now

    Raises
    ------
    :exc:`HwgenError`
        If an output is no tensor.
    """
    for value in model.graph.output:
        if value.type.WhichOneof("value") not in (None, "tensor_type"):
            raise HwgenError(f"{name}: output {value.name!r} is no tensor: export the network with "
                             f"tensors as outputs")
    lacking = [value for value in model.graph.output
               if not value.type.tensor_type.HasField("shape")]
    if not lacking:
        return []
    found = {value.name: value for value in infer_shapes(model).graph.output}
    for value in lacking:
        if found[value.name].type.HasField("tensor_type"):
            value.CopyFrom(found[value.name])
        elif not value.type.tensor_type.elem_type:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    unknown = [value for value in lacking if not value.type.tensor_type.HasField("shape")]
    for value in unknown:
        value.type.tensor_type.shape.SetInParent()
    return unknown


def fix_inputs(
    model: onnx.ModelProto, name: str, size: Size, whole: Collection[str] = ()
) -> None:
    """Give every input a static shape, and take constants off the inputs.

    A batch that is not fixed is 1.

    Parameters
    ----------
    model : changed
    name : what errors call it
    size : height and width for image inputs, one number if they are alike, and the extent that
        inputs of other ranks leave open; None: as the file says
    whole : inputs that may be of whole numbers

    Raises
    ------
    :exc:`HwgenError`
        If an extent is not known, an input is not of floats (or of integers that are dequantised
        at once, or may be of whole numbers), or a size is given and no input is an image.
    """
    constants = {c.name for c in model.graph.initializer}
    inputs = [onnx.ValueInfoProto.FromString(value.SerializeToString())
              for value in model.graph.input if value.name not in constants]
    if len(inputs) < len(model.graph.input):
        # Before version 4 of the format constants had to be inputs as well.
        model.ir_version = max(model.ir_version, 4)
        del model.graph.input[:]
        model.graph.input.extend(inputs)
    if size is not None and not any(
            len(value.type.tensor_type.shape.dim) == 4 or _open(value) for value in inputs):
        raise HwgenError(f"{name} has no image as input (batch, channels, height, width) and "
                         f"leaves no extent open, so no size can be given")
    coded = {n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    changed = False
    for value in model.graph.input:
        if value.name not in whole:
            _check_kind(value, name, coded)
        changed |= _fix_extents(value, name, size)
    if changed:
        del model.graph.value_info[:]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")


def _check_kind(value: onnx.ValueInfoProto, name: str, coded: set[str]) -> None:
    """Refuse an input of other elements than floats, or integers that are dequantised at once."""
    kind = value.type.tensor_type.elem_type
    few = kind in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)
    if kind != onnx.TensorProto.FLOAT and not (
            kind in INTEGERS and value.name in coded and not few):
        known = onnx.TensorProto.DataType.Name(kind) if kind else "no tensor"
        raise HwgenError(f"{name}: input {value.name!r} is {known}: only inputs of floats are "
                         f"read, and integers of 8 or 16 bits that a DequantizeLinear or a Cast to "
                         f"float reads, or ids that choose rows of a table: export with such an "
                         f"input, or fix it if it is always the same")


def _open(value: onnx.ValueInfoProto) -> list[int]:
    """Which extents of an input a size decides if the file does not: those of space or time."""
    return [k for k in _spatial(value) if value.type.tensor_type.shape.dim[k].dim_value < 1]


def _spatial(value: onnx.ValueInfoProto) -> list[int]:
    """Axes of an input that are space or time, or may be."""
    dims = value.type.tensor_type.shape.dim
    if len(dims) == 4 and dims[3].dim_value in (1, 3) and dims[1].dim_value not in (1, 3):
        # Colours are last in files of TensorFlow.
        return [1, 2]
    return list(range({2: 1, 3: 1, 4: 2, 5: 3}.get(len(dims), len(dims)), len(dims)))


def _fix_extents(value: onnx.ValueInfoProto, name: str, size: Size) -> bool:
    """Make the shape of an input static, but for a fixed batch; returns whether it changed."""
    changed = False
    dims, free = value.type.tensor_type.shape.dim, _open(value)
    if len(dims) == 3 and len(free) > 1 and size is not None:
        raise HwgenError(f"{name}: input {value.name!r} leaves dimensions {free} open, but a size "
                         f"is one extent: export with the channels' number fixed")
    spatial = _spatial(value) if len(dims) == 4 else free
    if isinstance(size, tuple) and spatial and len(spatial) != 2:
        raise HwgenError(f"{name}: input {value.name!r} leaves dimensions {free} open, but a size "
                         f"of {size[0]}x{size[1]} is that of an image: give one number")
    sizes = {k: size[n] if isinstance(size, tuple) else size for n, k in enumerate(spatial)}
    for k, dim in enumerate(dims):
        given = sizes.get(k)
        if k == 0 and dim.dim_value < 1:
            dim.dim_value, changed = 1, True
        elif given is not None and dim.dim_value != given:
            dim.dim_value, changed = given, True
        elif dim.dim_value < 1:
            raise HwgenError(
                f"{name}: input {value.name!r} has no fixed extent in dimension {k}: "
                f"{'give a size, or ' if k in free else ''}export with a static shape"
            )
    return changed


def check_extents(model: onnx.ModelProto, name: str, size: Size) -> None:
    """Refuse tensors that are empty or too large, before anything allocates them.

    What is empty may be joined to something, as in a roll by 0; it is left out.  Constants are
    folded later, so what they are computed from may be empty.
    """
    for constant in model.graph.initializer:
        if math.prod(constant.dims) > ELEMENTS:
            raise HwgenError(f"{name}: constant {constant.name!r} of {list(constant.dims)} is "
                             f"too large")
    try:
        found = infer_shapes(model)
    except Exception as error:
        raise HwgenError(f"{name} is inconsistent{with_size(size)}: {first_line(error)}") from None
    empty = _without_empty_parts(model, found)
    for value in (*found.graph.input, *found.graph.value_info, *found.graph.output):
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value")]
        if math.prod(dims) > ELEMENTS or any(d < 0 for d in dims):
            raise HwgenError(f"{name}: tensor {value.name!r} of {dims} is too large")
        # Exporters compute extents from lists of them, which may be empty.
        extents = len(dims) == 1 and value.type.tensor_type.elem_type == onnx.TensorProto.INT64
        if 0 in dims and value.name in empty and not extents:
            raise HwgenError(f"{name}: tensor {value.name!r} of {dims} is empty")


def _without_empty_parts(model: onnx.ModelProto, found: onnx.ModelProto) -> set[str]:
    """Take empty parts off concatenations, in place; returns the other streams that are empty."""
    empty = {value.name for value in (*found.graph.input, *found.graph.value_info,
                                      *found.graph.output)
             if any(d.HasField("dim_value") and d.dim_value == 0
                    for d in value.type.tensor_type.shape.dim)}
    live = {value.name for value in model.graph.input}
    read = {value.name for value in model.graph.output}
    for node in model.graph.node:
        if live.intersection(node.input):
            live.update(node.output)
        if node.op_type == "Concat" and not empty.issuperset(node.input) and (
                live.intersection(node.input)):
            kept = [name for name in node.input if name not in empty]
            node.input[:] = kept
        if node.output[0] not in empty:
            read.update(node.input)
    return empty & live & read


def infer_shapes(model: onnx.ModelProto, **options) -> onnx.ModelProto:
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


def stated_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's tensors and constants, as far as they follow from its inputs."""
    found = infer_shapes(model).graph
    shapes = {constant.name: tuple(constant.dims) for constant in model.graph.initializer}
    for value in (*found.input, *found.value_info, *found.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
    return shapes


def floor_pools(model: onnx.ModelProto) -> None:
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
            for graph in (infer_shapes(model).graph,)
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


def with_size(size: Size) -> str:
    shown = "x".join(map(str, size)) if isinstance(size, tuple) else size
    return f" with extents of {shown}, the size that was given" if size else ""


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
