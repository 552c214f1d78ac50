"""The integer graph: typed tensors, ops with a shape rule and an exact numpy meaning.

An op says *what* is computed, bit for bit; nothing here knows about cycles or folding.
"""

from hwgen.ir.attention import Attention
from hwgen.ir.conv import Conv, Convolution, ConvTranspose, Gemm
from hwgen.ir.elementwise import Add, ArgMax, ChannelMax, Extremum, Mul, Table
from hwgen.ir.embedding import Embedding
from hwgen.ir.graph import Graph, Node
from hwgen.ir.matmul import MatMul
from hwgen.ir.norm import LayerNorm
from hwgen.ir.op import Op
from hwgen.ir.pool import AveragePool, GlobalAveragePool, GlobalMaxPool, MaxPool
from hwgen.ir.recurrent import Recurrent
from hwgen.ir.requantise import Requantise, requantise
from hwgen.ir.route import Concat, GatherChannels, Pad, Rearrange, Reshape, Resize, Split
from hwgen.ir.rows import row_edges, split_rows
from hwgen.ir.softmax import Softmax
from hwgen.ir.types import Quantisation, TensorType
from hwgen.ir.window import Pads, Window

__all__ = [
    "Add",
    "ArgMax",
    "Attention",
    "AveragePool",
    "ChannelMax",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Convolution",
    "Embedding",
    "Extremum",
    "GatherChannels",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Graph",
    "LayerNorm",
    "MatMul",
    "MaxPool",
    "Mul",
    "Node",
    "Op",
    "Pad",
    "Pads",
    "Quantisation",
    "Rearrange",
    "Recurrent",
    "Requantise",
    "Reshape",
    "Resize",
    "Softmax",
    "Split",
    "Table",
    "TensorType",
    "Window",
    "requantise",
    "row_edges",
    "split_rows",
]
