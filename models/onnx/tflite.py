"""TFLite files, which tf2onnx brings into ONNX if it is installed.

It keeps the integers of a quantised file: each tensor stands between QuantizeLinear and
DequantizeLinear, and weights and biases are constants in front of a DequantizeLinear.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

from hwgen.errors import HwgenError, reason
from hwgen.models.onnx.shapes import first_line

__all__ = ["to_onnx"]

OPSET = 17
"""Operator set that is asked for."""


def to_onnx(path: Path) -> bytes:
    """The ONNX model of a TFLite file, serialised.

    Raises
    ------
    :exc:`HwgenError`
        If the file cannot be read, tf2onnx is not installed, or it does not know the file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise HwgenError(f"{path} cannot be read: {reason(error)}") from None
    if head[4:] != b"TFL3":
        raise HwgenError(f"{path} is not a TFLite file")
    try:
        convert = importlib.import_module("tf2onnx.convert")
    except ImportError:
        raise HwgenError(
            f"{path} is a TFLite file, and tf2onnx, which reads such files, is not installed: "
            f"install it (pip install tf2onnx tensorflow-cpu), or convert the file where it is: "
            f"python -m tf2onnx.convert --tflite {path} --output {path.with_suffix('.onnx')} "
            f"--opset {OPSET}"
        ) from None
    # It prints what it does; ops that it leaves are refused by name when the model is read.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    try:
        model, _ = convert.from_tflite(str(path), opset=OPSET)
    except Exception as error:  # whatever it raises that meets what it does not know
        raise HwgenError(f"{path} cannot be converted by tf2onnx: {first_line(error)}") from None
    return model.SerializeToString()
