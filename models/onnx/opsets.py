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


def brought_up(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A model of an operator set that is read.

    Raises
    ------
    :exc:`HwgenError`
        If its operator set is too old or too new, or an op cannot be converted.
    """
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    low, high = OPSETS
    if not versions and not model.graph.node:
        raise HwgenError(f"{name} is not a valid ONNX file: it holds no network")
    if not versions or not OLDEST <= versions[0] <= high:
        raise HwgenError(
            f"{name} is written in ONNX opset {versions[0] if versions else 'none'}; opsets "
            f"{OLDEST} to {high} are read: export or convert it (onnx.version_converter)"
        )
    if versions[0] >= low:
        return model
    try:
        return version_converter.convert_version(model, low)
    except Exception as error:  # the converter raises classes of its own
        raise HwgenError(
            f"{name} is written in ONNX opset {versions[0]}, which cannot be converted to opset "
            f"{low}: {first_line(error)}: export it in opset {low} or later") from None
