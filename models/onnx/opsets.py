"""Operator sets: which are read, and older ones brought up to them."""

from __future__ import annotations

import onnx
from onnx import version_converter

from hwgen.errors import HwgenError
from hwgen.models.onnx.shapes import first_line, infer_shapes

__all__ = ["OLDEST", "OPSETS", "brought_up"]

OPSETS = 9, onnx.defs.onnx_opset_version()
"""Operator sets that are read as they are."""
OLDEST = 7
"""Older operator sets are converted from this one on."""

WIDE = 21
"""The first operator set whose quantisers know integers of 4 and 16 bits."""
INLINED = {"ReduceLogSum": 28, "ReduceLogSumExp": 28}
"""Ops that onnxruntime writes out from an operator set on, in a form that loses digits.

All that is new in these sets is types, and bodies for those who have no such op.
"""


def _own_quantisers(model: onnx.ModelProto) -> bool:
    """Let quantisers of onnxruntime's domain be ONNX's own, which are the same ops.

    onnxruntime writes them for integers that the file's operator set does not know.  Returns
    whether they make such integers of a stream.
    """
    kinds = {c.name: c.data_type for c in model.graph.initializer}
    wide = False
    for node in model.graph.node:
        if node.domain == "com.microsoft" and node.op_type in (
                "QuantizeLinear", "DequantizeLinear"):
            node.domain = ""
            zero = node.input[2] if len(node.input) > 2 else ""
            wide |= node.op_type == "QuantizeLinear" and node.input[0] not in kinds and (
                kinds.get(zero, onnx.TensorProto.UINT8) not in (
                    onnx.TensorProto.UINT8, onnx.TensorProto.INT8))
    return wide


def brought_up(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A model of an operator set that is read.

    Raises
    ------
    :exc:`HwgenError`
        If its operator set is too old or too new, or an op cannot be converted.
    """
    wide = _own_quantisers(model)
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    low, high = OPSETS
    if not versions and not model.graph.node:
        raise HwgenError(f"{name} is not a valid ONNX file: it holds no network")
    if not versions or not OLDEST <= versions[0] <= high:
        raise HwgenError(
            f"{name} is written in ONNX opset {versions[0] if versions else 'none'}; opsets "
            f"{OLDEST} to {high} are read: export or convert it (onnx.version_converter)"
        )
    low = WIDE if wide else low
    if versions[0] >= low:
        _restate(model, versions[0])
        return model
    try:
        return version_converter.convert_version(model, low)
    except Exception as error:  # the converter raises classes of its own
        raise HwgenError(
            f"{name} is written in ONNX opset {versions[0]}, which cannot be converted to opset "
            f"{low}: {first_line(error)}: export it in opset {low} or later") from None


def _restate(model: onnx.ModelProto, version: int) -> None:
    """State an older operator set, in place, if an op is better known in it, and all are in it."""
    before = min((INLINED[node.op_type] - 1 for node in model.graph.node
                  if node.op_type in INLINED), default=version)
    if before >= version:
        return
    older = onnx.ModelProto()
    older.CopyFrom(model)
    for stated in older.opset_import:
        if stated.domain in ("", "ai.onnx"):
            stated.version = before
    try:
        infer_shapes(older, check_type=True, strict_mode=True)
        known = all(_is_in(node, before) for node in older.graph.node)
    except Exception:  # types of another op are newer, and the model stays as it is
        return
    if known:
        model.CopyFrom(older)


def _is_in(node: onnx.NodeProto, version: int) -> bool:
    """Whether an operator set has a node's form; those of other domains do not matter."""
    if node.domain not in ("", "ai.onnx"):
        return True
    schema = onnx.defs.get_schema(node.op_type, version)
    return len(node.input) <= schema.max_input and {
        a.name for a in node.attribute} <= set(schema.attributes)
