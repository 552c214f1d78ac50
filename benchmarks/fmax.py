"""Clock rates: every block placed and routed for ECP5 by nextpnr, with its slowest path.

    python -m benchmarks.fmax [--quick] [BLOCK ...]

Speed grade 6, LFE5U-85F, each block on its own (its ports are neither pins nor paths).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.place import place
from hwgen.blocks.adder import AdderConfig
from hwgen.blocks.argmax import ArgMaxConfig
from hwgen.blocks.base import BlockConfig
from hwgen.blocks.concatenate import ConcatenateConfig
from hwgen.blocks.conv import FoldedConvConfig
from hwgen.blocks.embedding import EmbeddingConfig
from hwgen.blocks.fifo import FifoConfig
from hwgen.blocks.gather import GatherConfig
from hwgen.blocks.globalpool import GlobalPoolConfig
from hwgen.blocks.lane_change import LaneChangeConfig
from hwgen.blocks.pad import PadConfig
from hwgen.blocks.pool import PoolConfig
from hwgen.blocks.product import ProductConfig
from hwgen.blocks.resize import NearestResizeConfig
from hwgen.blocks.splitter import SplitterConfig
from hwgen.blocks.table import TableLookupConfig
from hwgen.emit.verilog import emit_component
from hwgen.ir import (
    Add,
    ArgMax,
    AveragePool,
    Conv,
    ConvTranspose,
    Embedding,
    GatherChannels,
    GlobalAveragePool,
    GlobalMaxPool,
    MaxPool,
    Mul,
    Pad,
    Quantisation,
    Requantise,
    Resize,
    Split,
    Table,
    TensorType,
)
from hwgen.parts.stream import StreamType

Q = Quantisation(0.1, 3)
LEAST = 120.0
SCRIPT = "synth_ecp5 -top top -noiopad"


def _conv(cin: int, cout: int, kernel: int, groups: int = 1, **folding) -> FoldedConvConfig:
    random = np.random.default_rng(0)
    op = Conv(
        random.integers(-127, 128, (cout, kernel, kernel, cin // groups)),
        random.integers(-9999, 9999, cout), Requantise.from_scale(random.uniform(1e-4, 1e-3, cout)),
        Q, (1, 1), ((kernel // 2,) * 2,) * 2, groups,
    )
    return FoldedConvConfig(op=op, tensor=TensorType((40, 40, cin), Q), multiplier="mult18",
                            **folding)


def _conv_transpose(**folding) -> FoldedConvConfig:
    random = np.random.default_rng(0)
    op = ConvTranspose(
        random.integers(-127, 128, (16, 4, 4, 16)), random.integers(-9999, 9999, 16),
        Requantise.from_scale(random.uniform(1e-4, 1e-3, 16)), Q, (2, 2), ((1, 1), (1, 1)),
    )
    return FoldedConvConfig(op=op, tensor=TensorType((20, 20, 16), Q), multiplier="mult18",
                            **folding)


def blocks() -> dict[str, BlockConfig]:
    """A typical configuration of every block."""
    image = TensorType((40, 40, 32), Q)
    random = np.random.default_rng(0)
    return {
        "conv 3x3": _conv(16, 16, 3, lanes_in=4, lanes_out=2, channel_lanes=8, pe=4),
        "conv 1x1": _conv(32, 16, 1, lanes_in=4, lanes_out=1, channel_lanes=16, pe=2),
        "conv depthwise": _conv(16, 16, 3, 16, lanes_in=2, lanes_out=2, tap_lanes=3, group_lanes=4),
        "conv, two pixels": _conv(16, 16, 3, lanes_in=4, lanes_out=2, channel_lanes=8, pe=4,
                                  pixels_in=2, pixels_out=2),
        "conv depthwise, pairs": _conv(16, 16, 3, 16, lanes_in=2, lanes_out=2, tap_lanes=3,
                                       group_lanes=4, pixels_out=2, shared="weight"),
        "conv transposed": _conv_transpose(lanes_in=4, lanes_out=2, channel_lanes=8, pe=4),
        "max pool": PoolConfig(op=MaxPool((5, 5), (1, 1), ((2, 2), (2, 2))), tensor=image, lanes=4),
        "average pool": PoolConfig(op=AveragePool((2, 2), Requantise.from_scale(0.25), Q, (2, 2)),
                                   tensor=image, lanes=2),
        "average pool, border": PoolConfig(
            op=AveragePool((3, 3), Requantise.from_scale(1 / np.arange(1, 10)), Q, (1, 1),
                           ((1, 1), (1, 1)), False), tensor=image, lanes=2, multiplier="mult18"),
        "global mean": GlobalPoolConfig(
            op=GlobalAveragePool(Requantise.from_scale(1 / 1600), Q), tensor=image, lanes=2,
            multiplier="mult18"),
        "global max": GlobalPoolConfig(op=GlobalMaxPool(), tensor=image, lanes=2),
        "pad": PadConfig(op=Pad(((1, 2), (2, 1)), None), tensor=image, lanes=4),
        "resize": NearestResizeConfig(op=Resize((2, 2)), tensor=image, lanes=4),
        "table": TableLookupConfig(op=Table(random.integers(-128, 128, 256), Q), tensor=image,
                                   lanes=4),
        "table by channel": TableLookupConfig(
            op=Table(random.integers(-128, 128, (32, 256)), Q), tensor=image, lanes=4),
        "embedding": EmbeddingConfig(
            op=Embedding(random.integers(-128, 128, (257, 64)), Q), lanes=8,
            tensor=TensorType((512, 1), Embedding.ids(257))),
        "multiply": ProductConfig(op=Mul(Requantise.from_scale(0.05), Q), tensors=(image, image),
                                  lanes=2, multiplier="mult18"),
        "argmax": ArgMaxConfig(op=ArgMax(), tensor=TensorType((40, 40, 1000), Q), lanes=4),
        "shuffle": GatherConfig(
            op=GatherChannels(tuple(np.arange(464).reshape(2, -1).T.ravel().tolist())),
            tensor=TensorType((7, 7, 464), Q), lanes=4),
        "add": AdderConfig(op=Add.from_types(Q, Quantisation(0.07, 1), Q), tensors=(image, image),
                           lanes=2),
        "concatenate": ConcatenateConfig(tensors=(image, image, image), lanes=4),
        "split": SplitterConfig(op=Split((8, 24)), tensor=image, lanes=4),
        "lane change": LaneChangeConfig(tensor=image, lanes_in=4, lanes_out=8),
        "fork": FifoConfig(stream=StreamType(image, 4), branches=2, depths=(500, 5)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Clock rates on ECP5")
    parser.add_argument("--quick", action="store_true", help="two blocks only")
    parser.add_argument("blocks", nargs="*", metavar="BLOCK")
    options = parser.parse_args()
    found = blocks()
    if unknown := sorted(set(options.blocks) - set(found)):
        parser.error(f"no block {', '.join(unknown)}; there are {', '.join(found)}")
    wanted = options.blocks or (["table", "add"] if options.quick else list(found))
    slow = 0
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            rtl = emit_component(found[name].at_full_speed().create())
            placed = place(rtl, Path(folder), SCRIPT)
        slow += placed.clock < LEAST
        print(f"{name:<16} {placed.clock:7.1f} MHz   slowest: {placed.path[0]} -> "
              f"{placed.path[-1]} ({len(placed.path)} hops)", flush=True)
    print(f"{slow} of {len(wanted)} below {LEAST:g} MHz")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
