"""The integer graph: typed tensors, ops with a shape rule and an exact numpy meaning.

An op says *what* is computed, bit for bit; nothing here knows about cycles or folding.
"""

from hwgen.ir.graph import Graph, Node
from hwgen.ir.ops import (
    Add,
    AveragePool,
    Concat,
    Conv,
    Gemm,
    GlobalAveragePool,
    MaxPool,
    Op,
    Resize,
    Split,
    Table,
)
from hwgen.ir.requantise import Requantise, requantise
from hwgen.ir.types import Quantisation, TensorType

__all__ = [
    "Add",
    "AveragePool",
    "Concat",
    "Conv",
    "Gemm",
    "GlobalAveragePool",
    "Graph",
    "MaxPool",
    "Node",
    "Op",
    "Quantisation",
    "Requantise",
    "Resize",
    "Split",
    "Table",
    "TensorType",
    "requantise",
]
