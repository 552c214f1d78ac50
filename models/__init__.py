"""Networks before they are hardware: the zoo, ONNX import, quantisation, host-side decoding."""

from hwgen.models.load import load
from hwgen.models.zoo import names

__all__ = ["load", "names"]
