"""Resize: repetition of pixels, and interpolation, most of it as a transposed convolution."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, helper

from hwgen.errors import HwgenError
from hwgen.ir import Conv, ConvTranspose, Pad
from hwgen.models.lowering.core import Lowering, finer, handles, scales
from hwgen.models.lowering.layout import pixel_ops, plain_positions
from hwgen.models.onnx.nodes import attributes
from hwgen.models.onnx.session import session

__all__: list[str] = []


def _matrices(low: Lowering, node: onnx.NodeProto) -> list[np.ndarray]:
    """Per spatial axis, the share of each input row in each output row, found by running the op."""
    before, after = low.shape(node.input[0]), low.shape(node.output[0])
    rank = len(before)
    found = []
    for axis in range(2, rank):
        n, m = before[axis], after[axis]
        # One channel for each row, which is 1 there.
        shape = [1] * rank
        shape[1], shape[axis] = n, n
        sizes = list(shape)
        sizes[axis] = m
        scales = [1.0] * rank
        scales[axis] = m / n
        old = node.op_type == "Upsample" or len(node.input) < 3
        at = {k: v for k, v in attributes(node).items()
              if k not in ("axes", "scales", "keep_aspect_ratio_policy")}
        # Opsets 11 and 12 want a region of interest and scales, if only empty ones.
        empty = np.zeros(0, np.float32)
        if old:
            names, values = ["x", "s"], {"s": np.array(scales, np.float32)}
        elif node.input[2] and low.constant(node.input[2]).size:
            # Not all extents are a whole multiple of the scale, which decides where pixels lie.
            order = _resized(node, rank)
            if len(low.constant(node.input[2])) != len(order):
                raise HwgenError(f"its scales must be {len(order)} numbers, one for each axis")
            if axis in order:
                scales[axis] = float(low.constant(node.input[2])[order.index(axis)])
            names, values = ["x", "e", "s"], {"s": np.array(scales, np.float32), "e": empty}
        elif (scale := _kept_aspect(low, node)) is not None:
            scales[axis] = scale if axis in _resized(node, rank) else 1.0
            names, values = ["x", "e", "s"], {"s": np.array(scales, np.float32), "e": empty}
        else:
            names = ["x", "e", "e", "s"]
            values = {"s": np.array(sizes, np.int64), "e": empty}
        copy = helper.make_node(node.op_type, names, ["y"], **at)
        graph = helper.make_graph(
            [copy], "resize", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [onnx.ValueInfoProto(name="y")],
            [onnx.numpy_helper.from_array(v, k) for k, v in values.items()],
        )
        model = helper.make_model(graph, opset_imports=low.network.model.opset_import)
        model.ir_version = low.network.model.ir_version
        x = np.eye(n, dtype=np.float32).reshape(shape)
        try:
            (y,) = session(model).run(["y"], {"x": x})
        except Exception as error:  # onnxruntime raises classes of its own for every fault
            raise HwgenError(f"cannot be run: {str(error)[:200]}") from None
        if np.asarray(y).size != n * m:
            raise HwgenError("its sizes do not follow from its input's alone")
        found.append(np.asarray(y, np.float64).reshape(n, m).T)
    return found


def _resized(node: onnx.NodeProto, rank: int) -> list[int]:
    """Axes for which a node states scales or sizes."""
    return [a % rank for a in attributes(node).get("axes", range(rank))]


def _kept_aspect(low: Lowering, node: onnx.NodeProto) -> float | None:
    """The one scale of all axes, if a node keeps the aspect ratio; None: it does not."""
    policy = attributes(node).get("keep_aspect_ratio_policy", b"stretch")
    if policy == b"stretch" or len(node.input) < 4:
        return None
    before, after = low.shape(node.input[0]), low.shape(node.output[0])
    axes = _resized(node, len(before))
    wanted = [int(size) / before[axis]
              for axis, size in zip(axes, low.constant(node.input[3]), strict=True)]
    scale = min(wanted) if policy == b"not_larger" else max(wanted)
    if any(int(before[axis] * scale + 1e-4) != after[axis] for axis in axes):
        raise HwgenError(
            f"its aspect ratio is kept by a scale of {scale:.4g}, which makes no whole number of "
            f"pixels: export with sizes in the ratio of the input's")
    return scale


@handles("Resize", "Upsample")
def _resize(low: Lowering, node: onnx.NodeProto) -> None:
    before, after = low.shape(node.input[0]), low.shape(node.output[0])
    if before[:2] != after[:2] or len(before) < 3:
        raise HwgenError("only spatial axes can be resized")
    at = attributes(node)
    mode = at.get("mode", b"nearest").decode()
    if at.get("coordinate_transformation_mode") == b"tf_crop_and_resize":
        raise HwgenError("cropping in a Resize (tf_crop_and_resize) is not supported: crop with a "
                         "Slice in front of it")
    if mode not in ("nearest", "linear", "cubic"):
        raise HwgenError(f"mode {mode!r} is not supported; supported are nearest, linear, cubic")
    if (at.get("coordinate_transformation_mode") == b"align_corners"
            and any(a < b for a, b in zip(after[2:], before[2:], strict=True))):
        raise HwgenError(
            "a reduction with align_corners is not supported: onnxruntime, which is what files are "
            "compared with, computes it otherwise than ONNX says"
        )
    matrices = _matrices(low, node)
    source = low.tensor(node.input[0])
    picks = [m.argmax(1) for m in matrices]
    if all((m[np.arange(len(m)), p] == 1).all() for m, p in zip(matrices, picks, strict=True)):
        ops = pixel_ops(picks, before[2:])
        if ops is not None:
            (op,) = ops
            low.put(node.output[0], op, source)
            return
        positions = low.positions(node.input[0])
        for axis, pick in enumerate(picks, start=2):
            positions = positions.take(pick, axis)
        low.move(node.output[0], low.view(node.input[0]).tensor, positions)
        return
    whole = all(a % b == 0 for a, b in zip(after[2:], before[2:], strict=True))
    if not (whole and mode == "linear" and _linear(low, node, source, matrices)):
        _by_axis(low, node, source, matrices)


def _by_axis(
    low: Lowering, node: onnx.NodeProto, source: str, matrices: list[np.ndarray]
) -> None:
    """Any interpolation: along each axis a matrix, whose axis is that of the channels meanwhile."""
    out, result = node.output[0], low.result(node.output[0])
    shape = low.shape(node.input[0])
    axes = [k for k, m in enumerate(matrices, start=2)
            if m.shape[0] != m.shape[1] or not np.allclose(m, np.eye(len(m)))]
    positions = plain_positions(shape)
    for axis in axes:
        last, matrix = axis == axes[-1], matrices[axis - 2]
        source = low.arranged(source, positions, out, axis)
        type = low.type(source)
        codes = result.quantisation if last else finer(result.quantisation)
        unit = np.abs(matrix).max(1, keepdims=True) / 127
        weights = np.rint(matrix / unit).astype(np.int16)
        ones = (1,) * len(type.spatial)
        ratios = type.scale * unit[:, 0] / codes.scale
        op = Conv(weights.reshape(len(matrix), *ones, -1),
                  -type.zero_point * weights.sum(1, dtype=np.int64), scales(ratios, codes), codes)
        shape = (*shape[:axis], len(matrix), *shape[axis + 1 :])
        positions = plain_positions(shape, axis)
        if last:
            low.put(result.name, op, source, axis=axis)
        else:
            source = low.graph.add(op, source, name=low.fresh(f"{out}_axis"))


def _linear(
    low: Lowering, node: onnx.NodeProto, source: str, matrices: list[np.ndarray]
) -> bool:
    """Linear interpolation: a pad with the nearest pixel, and a convolution with a triangle.

    Returns
    -------
    :class:`bool`
        Whether the matrices are that.
    """
    type = low.type(source)
    kernels, pads, edges, factors = [], [], [], []
    for matrix in matrices:
        m, n = matrix.shape
        factor = m // n
        found = _triangle(matrix, factor)
        if found is None:
            return False
        kernel, first = found
        # One pixel more on each side, and what it makes cut off.
        size = (n + 1) * factor + len(kernel)
        edges.append((1, 1) if factor > 1 else (0, 0))
        lead = factor - first if factor > 1 else 0
        full = size if factor > 1 else n
        kernels.append(kernel)
        pads.append((lead, full - lead - m))
        factors.append(factor)
    if any(any(e) for e in edges):
        source = low.graph.add(Pad(tuple(edges), None), source,
                               name=low.fresh(f"{node.output[0]}_edge"))
    whole = np.ones(())
    for kernel in kernels:
        whole = np.multiply.outer(whole, kernel)
    # Weights are multiples of a fraction; where those are too large, they are rounded.
    unit = min((w for w in np.unique(whole) if w > 0), default=1.0)
    limit = 127
    if not np.allclose(whole / unit, np.rint(whole / unit)) or whole.max() / unit > limit:
        unit = float(whole.max()) / limit
    integers = np.rint(whole / unit).astype(np.int64)
    channels = type.channels
    result = low.result(node.output[0])
    bits = max(int(integers.max()).bit_length() + 1, 2)
    ratio = type.scale * unit / result.quantisation.scale
    low.put(result.name, ConvTranspose(
        np.broadcast_to(integers[None, ..., None], (channels, *integers.shape, 1)),
        np.zeros(channels, np.int64), scales(np.full(channels, ratio), result.quantisation),
        result.quantisation, tuple(factors), tuple(pads), channels, bits,
    ), source)
    return True


def _triangle(matrix: np.ndarray, factor: int) -> tuple[np.ndarray, int] | None:
    """The kernel of an interpolation, and the output row of its first tap for input row 0.

    None if the rows of the matrix are not shifted copies of one kernel, clamped at the edges.
    """
    m, n = matrix.shape
    if factor == 1:
        return (np.ones(1), 0) if np.array_equal(matrix, np.eye(n)) else None
    for shift in (0.5, 0.0):
        # Half-pixel coordinates, and asymmetric ones.
        first = -math.floor(factor / 2) if shift else 1 - factor
        taps = np.arange(first, first + 2 * factor)
        kernel = np.maximum(0, 1 - abs((taps + shift) / factor - shift))
        kernel = np.trim_zeros(kernel, "b")
        clamped = np.zeros((m, n))
        for row in range(-1, n + 1):
            for k, weight in enumerate(kernel):
                out = factor * row + first + k
                if 0 <= out < m:
                    clamped[out, min(max(row, 0), n - 1)] += weight
        if np.allclose(clamped, matrix, atol=1e-5):
            return kernel, first
    return None
