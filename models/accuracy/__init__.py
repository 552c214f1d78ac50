"""How far an integer graph is from its float network, layer by layer."""

from models.accuracy.compare import measure
from models.accuracy.report import Accuracy, Row, decibels

__all__ = ["Accuracy", "Row", "decibels", "measure"]
