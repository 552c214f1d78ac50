"""Blocks: hardware for ops, each with its golden model, exact timing and resources.

A few blocks have the name of their op: :class:`hwgen.ir.ArgMax` is the op, ``ArgMaxConfig`` the
configuration of the block, and ``ArgMax`` the hardware.  Importing this module registers all blocks
(:mod:`hwgen.blocks.registry`); it needs only Amaranth and numpy.
"""

from hwgen.blocks.adder import Adder, AdderConfig
from hwgen.blocks.argmax import ArgMax, ArgMaxConfig
from hwgen.blocks.attention import Attention, AttentionConfig
from hwgen.blocks.base import BlockConfig, Schedule
from hwgen.blocks.channelmax import ChannelMax, ChannelMaxConfig
from hwgen.blocks.concatenate import Concatenate, ConcatenateConfig
from hwgen.blocks.conv import FoldedConv, FoldedConvConfig
from hwgen.blocks.conv2d import conv2d
from hwgen.blocks.embedding import Embedding, EmbeddingConfig
from hwgen.blocks.evict import EvictionBuffer, EvictionConfig
from hwgen.blocks.extremum import Extremum, ExtremumConfig
from hwgen.blocks.fifo import Fifo, FifoConfig
from hwgen.blocks.gather import Gather, GatherConfig
from hwgen.blocks.globalpool import GlobalPool, GlobalPoolConfig
from hwgen.blocks.lane_change import LaneChange, LaneChangeConfig
from hwgen.blocks.layer_norm import LayerNorm, LayerNormConfig
from hwgen.blocks.low_rank import LowRankLinear, LowRankLinearConfig
from hwgen.blocks.matmul import MatMul, MatMulConfig
from hwgen.blocks.offchip_embedding import OffChipEmbedding, OffChipEmbeddingConfig
from hwgen.blocks.offchip_rearrange import OffChipRearrange, OffChipRearrangeConfig
from hwgen.blocks.pad import Pad, PadConfig
from hwgen.blocks.pool import Pool, PoolConfig
from hwgen.blocks.product import Product, ProductConfig
from hwgen.blocks.rearrange import Rearrange, RearrangeConfig
from hwgen.blocks.recurrent import Recurrent, RecurrentConfig
from hwgen.blocks.repeat import Repeat, RepeatConfig
from hwgen.blocks.resize import NearestResize, NearestResizeConfig
from hwgen.blocks.softmax import Softmax, SoftmaxConfig
from hwgen.blocks.sparse_conv import SparseConv, SparseConvConfig
from hwgen.blocks.splitter import Splitter, SplitterConfig
from hwgen.blocks.table import TableLookup, TableLookupConfig
from hwgen.blocks.token_matrix import TokenMatrix, TokenMatrixConfig

__all__ = [
    "Adder", "AdderConfig", "ArgMax", "ArgMaxConfig", "Attention", "AttentionConfig", "BlockConfig",
    "ChannelMax", "ChannelMaxConfig", "Concatenate", "ConcatenateConfig", "Embedding",
    "EmbeddingConfig", "EvictionBuffer", "EvictionConfig", "Extremum", "ExtremumConfig", "Fifo",
    "FifoConfig", "FoldedConv", "FoldedConvConfig", "Gather", "GatherConfig", "GlobalPool",
    "GlobalPoolConfig", "LaneChange", "LaneChangeConfig", "LayerNorm", "LayerNormConfig",
    "LowRankLinear", "LowRankLinearConfig", "MatMul", "MatMulConfig", "NearestResize",
    "NearestResizeConfig", "OffChipEmbedding", "OffChipEmbeddingConfig", "OffChipRearrange",
    "OffChipRearrangeConfig", "Pad", "PadConfig", "Pool", "PoolConfig", "Product", "ProductConfig",
    "Rearrange", "RearrangeConfig", "Recurrent", "RecurrentConfig", "Repeat", "RepeatConfig",
    "Schedule", "Softmax", "SoftmaxConfig", "SparseConv", "SparseConvConfig", "Splitter",
    "SplitterConfig", "TableLookup", "TableLookupConfig", "TokenMatrix", "TokenMatrixConfig",
    "conv2d",
]
