"""Networks before they are hardware: the zoo, ONNX import, quantisation, host-side decoding."""

from models.load import load
from models.zoo import names

__all__ = ["load", "names"]
