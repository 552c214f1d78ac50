"""How far an integer graph is from its float network, layer by layer."""

from hwgen.models.accuracy.compare import measure
from hwgen.models.accuracy.report import Accuracy, Row, decibels

__all__ = ["Accuracy", "Row", "decibels", "measure"]
