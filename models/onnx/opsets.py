"""Operator sets: which are read, and older ones brought up to them."""

from __future__ import annotations

import onnx
from onnx import version_converter

from hwgen.errors import HwgenError
from hwgen.models.onnx.shapes import first_line

__all__ = ["OLDEST", "OPSETS", "brought_up"]

OPSETS = 9, onnx.defs.onnx_opset_version()
"""Operator sets that are read as they are."""
OLDEST = 7
"""Older operator sets are converted from this one on."""

WIDE = 21
"""The first operator set whose quantisers know integers of 4 and 16 bits."""


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
        return model
    try:
        return version_converter.convert_version(model, low)
    except Exception as error:  # the converter raises classes of its own
        raise HwgenError(
            f"{name} is written in ONNX opset {versions[0]}, which cannot be converted to opset "
            f"{low}: {first_line(error)}: export it in opset {low} or later") from None
