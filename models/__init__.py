"""Networks before they are hardware: from a name or an ONNX file to the integer graph."""

from hwgen.models.load import load
from hwgen.models.zoo import names

__all__ = ["load", "names"]
