"""Random configurations of every block and part, as networks have them, for its resource model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring

from benchmarks.drawer import Drawer
from benchmarks.random_tokens import TOKENS
from hwgen.blocks.adder import AdderConfig
from hwgen.blocks.argmax import ArgMaxConfig
from hwgen.blocks.base import BlockConfig
from hwgen.blocks.channelmax import ChannelMaxConfig
from hwgen.blocks.concatenate import ConcatenateConfig
from hwgen.blocks.conv import FoldedConvConfig
from hwgen.blocks.embedding import EmbeddingConfig
from hwgen.blocks.evict import EvictionConfig
from hwgen.blocks.extremum import ExtremumConfig
from hwgen.blocks.fifo import FifoConfig
from hwgen.blocks.gather import GatherConfig
from hwgen.blocks.globalpool import GlobalPoolConfig
from hwgen.blocks.lane_change import LaneChangeConfig
from hwgen.blocks.low_rank import LowRankLinearConfig
from hwgen.blocks.offchip_rearrange import OffChipRearrangeConfig
from hwgen.blocks.pad import PadConfig
from hwgen.blocks.pool import PoolConfig
from hwgen.blocks.product import ProductConfig
from hwgen.blocks.rearrange import RearrangeConfig
from hwgen.blocks.resize import NearestResizeConfig
from hwgen.blocks.sparse_conv import SparseConvConfig, even_streams
from hwgen.blocks.splitter import SplitterConfig
from hwgen.blocks.table import TableLookupConfig
from hwgen.device.arithmetic import signed_width
from hwgen.device.cost import Area, Part
from hwgen.device.multiplier import Packing
from hwgen.errors import HwgenError
from hwgen.ir import (
    Add,
    ArgMax,
    AveragePool,
    ChannelMax,
    Conv,
    ConvTranspose,
    Embedding,
    Extremum,
    GatherChannels,
    GlobalAveragePool,
    GlobalMaxPool,
    MaxPool,
    Mul,
    Pad,
    Rearrange,
    Requantise,
    Resize,
    Split,
    Table,
    TensorType,
)
from hwgen.offchip.bus import AxiConfig
from hwgen.offchip.port import AxiPortConfig
from hwgen.offchip.weight_stream import WeightStreamConfig
from hwgen.parts.mac import MacArray, MacArrayConfig
from hwgen.parts.queue import Queue, Skid, queue_area, skid_area
from hwgen.parts.requantise import RequantiserConfig
from hwgen.parts.stream import StreamType
from hwgen.shell.control import ControlConfig
from hwgen.shell.guard import FrameGuardConfig
from hwgen.shell.mover import FrameReaderConfig, FrameWriterConfig
from hwgen.shell.registers import arguments
from hwgen.shell.repack import RepackConfig

__all__ = ["BLOCKS", "PARTS", "QueueShape", "SkidShape", "component", "draw"]


@dataclass(frozen=True)
class QueueShape(Part):
    """Parameters of a queue."""

    width: int
    depth: int
    claims: tuple[int, ...] = (1,)

    def area(self) -> Area:
        """What it takes."""
        return queue_area(self.width, self.depth, len(self.claims))


@dataclass(frozen=True)
class SkidShape(Part):
    """Parameters of a skid buffer."""

    width: int

    def area(self) -> Area:
        """What it takes."""
        return skid_area(self.width)


def _queue(d: Drawer) -> QueueShape:
    depth = d.spread(4, 600)
    claims = d.one((1,), (1,), (d.whole(1, depth),), (depth, d.whole(1, depth)))
    return QueueShape(d.bits() * d.spread(1, 16), depth, claims)


def _skid(d: Drawer) -> SkidShape:
    return SkidShape(d.bits() * d.spread(1, 16))


def _requantiser(d: Drawer) -> RequantiserConfig:
    acc = d.whole(12, 27)
    lanes = d.whole(1, 4)
    channels = lanes * d.spread(1, 256)
    output = d.quantisation(d.bits())
    sets = d.one(1, 1, 1, 4)
    half = 1 << (acc - 1)
    bias = d.random.integers(-half // 4, half // 4, (sets, channels))
    return RequantiserConfig(
        requantise=d.scales(half / 16, channels, output.bits), bias=bias, output=output,
        acc_range=(-half, half - 1), lanes=lanes,
        multiplier=d.one(d.multiplier, d.multiplier, "fabric"),
    )


def _array(d: Drawer) -> MacArrayConfig:
    x, w = d.one((8, 8), (8, 8), (8, 4), (4, 4))
    multiplier = d.one(*(d.multiplier,) * 3, "fabric")
    packing = Packing.densest(multiplier, x, w, (1 << (w - 1)) - d.whole(0, 1))
    simd, pe, groups = d.spread(1, 36), d.spread(1, 16), 1
    if d.chance(0.25):
        simd, pe, groups = d.one(1, 3, 9), 1, d.spread(2, 16)
    most = 24 if multiplier == "fabric" else 128
    if simd * pe * groups > most:
        raise HwgenError("That takes long")
    bound = packing.bound(simd * d.spread(1, 100))
    packing = Packing(multiplier, min(packing.products, pe), x, w, packing.weight_limit)
    return MacArrayConfig(simd=simd, pe=pe, groups=groups, packing=packing,
                          acc_bits=signed_width(-bound, bound))


def _conv(d: Drawer, wide: bool = False) -> FoldedConvConfig:
    x, w = d.one((8, 8), (8, 8), (8, 8), (8, 4), (4, 4))
    kind = d.one("3x3", "3x3", "1x1", "1x1", "depthwise", "depthwise", "5x5", "transposed")
    depthwise = kind == "depthwise"
    cin = d.one(3, *(8 * d.whole(1, 12) for _ in range(5)))
    cout = cin if depthwise else 8 * d.one(d.whole(1, 12), d.spread(4, 32))
    kernel = {"1x1": 1, "5x5": 5, "transposed": 2}.get(kind, 3)
    groups = cin if depthwise else 1
    extent = 8 * d.spread(1, 20) if wide else d.spread(8, 160)
    tensor = TensorType((extent, extent, cin), d.quantisation(x))
    limit = (1 << (w - 1)) - 1
    weight = d.random.integers(-limit, limit + 1, (cout, kernel, kernel, cin // groups))
    spread = float(np.sqrt(np.prod(weight.shape[1:]))) * limit * 2 ** (x - 2)
    bias = d.random.integers(-int(spread), int(spread) + 1, cout)
    output = d.quantisation(x)
    common = (weight, bias, d.scales(spread, cout, x), output)
    if kind == "transposed":
        op = ConvTranspose(*common, (2, 2), weight_bits=w)
    else:
        pads = ((kernel // 2, kernel // 2),) * 2
        op = Conv(*common, (d.one(1, 1, 2),) * 2, pads, groups, weight_bits=w)
    lanes_in = d.divisor(cin, 8)
    taps = op.window.taps
    folding = {
        "lanes_in": lanes_in, "lanes_out": d.divisor(cout, 4),
        "tap_lanes": d.one(1, 1, kernel, taps),
    }
    if depthwise:
        folding |= {"group_lanes": lanes_in * d.one(1, 1, 2), "channel_lanes": 1}
    else:
        folding |= {"channel_lanes": lanes_in * d.spread(1, 4), "pe": d.spread(1, 16)}
    if wide:
        folding |= {"pixels_in": d.one(1, 2, 4), "pixels_out": d.one(2, 2, 4)}
        if depthwise and d.chance(0.7):
            folding["shared"] = "weight"
    multiplier = d.one(*(d.multiplier,) * 6, "fabric")
    config = FoldedConvConfig(op=op, tensor=tensor, multiplier=multiplier, **folding)
    most = 16 if multiplier == "fabric" else 96
    if config.simd * config.pe * config.group_lanes * config.pixels_out > most:
        raise HwgenError("That takes long")
    if d.chance(0.3):
        lookup = Table.from_function(d.one(*ACTIVATIONS), output, d.quantisation(x))
        config = replace(config, lookup=lookup)
    return replace(config, depths=(d.depth(config.least_depths[0]),)).at_full_speed()


def _axi(d: Drawer) -> AxiConfig:
    return AxiConfig(data_bits=d.one(32, 64, 128, 128, 128, 256, 512))


def _weight_stream(d: Drawer) -> WeightStreamConfig:
    ports = d.spread(1, 18)
    bits = d.bits() * d.spread(1, 16)
    folds = d.spread(2, 64)
    return WeightStreamConfig(
        (2 * bits,) * (ports - 1) + (d.one(1, 2) * bits,), tuple(range(1, ports + 1)),
        rows=d.spread(4, 1200), folds=folds, axi=_axi(d), ring_places=d.one(2, 2, 2, 3, 5),
        resident=d.one(0, 0, d.whole(0, folds), folds), burst=d.one(16, 64, 64),
    )


def _axi_port(d: Drawer) -> AxiPortConfig:
    reads, writes = d.one(0, d.spread(1, 16), d.spread(1, 40)), d.one(0, d.spread(1, 12))
    return AxiPortConfig(axi=_axi(d), readers=reads, writers=writes, outstanding=d.one(4, 8, 8, 16))


def _frame(d: Drawer) -> dict[str, int]:
    """Sizes of the beats and frames of an accelerator's port."""
    beat = d.spread(1, 24)
    return {"beat_bytes": beat, "frame_bytes": beat * d.spread(4, 100_000)}


def _repack(d: Drawer) -> RepackConfig:
    word, frame = d.one(4, 8, 16, 16, 32), _frame(d)
    sizes = (word, frame["beat_bytes"])
    into, out = sizes if d.chance(0.5) else sizes[::-1]
    return RepackConfig(in_bytes=into, out_bytes=out, frame_bytes=frame["frame_bytes"])


def _frame_guard(d: Drawer) -> FrameGuardConfig:
    return FrameGuardConfig(beat_bytes=1 << d.whole(0, 5), beats=d.spread(1, 100_000))


def _shell_control(d: Drawer) -> ControlConfig:
    ports = [f"port_{k}" for k in range(d.whole(2, 5))]
    return ControlConfig(arguments=tuple(arguments(
        ports, memory=d.chance(0.5), weights=d.chance(0.3))), identification=d.whole(0, 1 << 60))


def _sparse(d: Drawer) -> SparseConvConfig:
    dense = _conv(d)
    if isinstance(dense.op, ConvTranspose) or dense.group_lanes > 1:
        raise HwgenError("That is not sparse")
    streams = dense.channel_lanes * dense.tap_lanes
    if streams > 48:
        raise HwgenError("That takes long")
    config = SparseConvConfig(
        op=dense.op, tensor=dense.tensor, lanes_in=dense.lanes_in, lanes_out=dense.lanes_out,
        channel_lanes=dense.channel_lanes, tap_lanes=dense.tap_lanes, pe=dense.pe,
        multiplier=d.multiplier, streams=even_streams(streams, d.spread(1, streams)),
        skip=d.one("activation", "activation", "both"), lookup=dense.lookup,
    )
    return replace(config, depths=(d.depth(config.least_depths[0]),)).at_full_speed()


def _low_rank(d: Drawer) -> LowRankLinearConfig:
    bits = d.bits()
    cin, rank, cout = 8 * d.whole(2, 24), 4 * d.whole(1, 12), 8 * d.whole(2, 24)
    ops, inner = [], d.quantisation(bits)
    for n, m, output in ((cin, rank, inner), (rank, cout, d.quantisation(bits))):
        limit = (1 << (bits - 1)) - 1
        weight = d.random.integers(-limit, limit + 1, (m, 1, n))
        spread = float(np.sqrt(n)) * limit * 2 ** (bits - 2)
        bias = d.random.integers(-int(spread), int(spread) + 1, m)
        ops.append(Conv(weight, bias, d.scales(spread, m, bits), output, (1,), ((0, 0),),
                        weight_bits=bits))
    lanes_in, lanes_rank = d.divisor(cin, 8), d.divisor(rank, 4)
    return LowRankLinearConfig(
        first=ops[0], second=ops[1],
        tensor=TensorType((d.spread(4, 200), cin), d.quantisation(bits)), lanes_in=lanes_in,
        lanes_rank=lanes_rank, lanes_out=d.divisor(cout, 4),
        channel_lanes=(lanes_in * d.spread(1, 4), lanes_rank * d.spread(1, 2)),
        pe=(d.spread(1, 8), d.spread(1, 12)), multiplier=d.multiplier,
    )


def _tiled(d: Drawer) -> FoldedConvConfig:
    config = _conv(d, wide=d.chance(0.2))
    if config.group_folds > 1 or config.channel_folds < 2 or config.interval > 3_000_000:
        raise HwgenError("That is not tiled")
    course, folds = config.window.course, config.channel_folds
    rows = course.output[0] // course.repeat[0]
    divisors = [n for n in range(1, rows + 1) if rows % n == 0]
    config = replace(
        config, tile=divisors[min(d.spread(1, 4), len(divisors)) - 1], depths=(),
        resident=d.one(0, 0, d.whole(0, folds), d.whole(0, folds)), axi=_axi(d),
        burst=d.one(16, 64, 64),
    ).at_full_speed()
    return replace(config, depths=(d.one(1, 1, 2) * config.least_depths[0],))


def _eviction(d: Drawer) -> EvictionConfig:
    tensor = d.tensor(most=60)
    lanes, pixels = d.divisor(tensor.channels, d.one(8, 32, 64)), d.one(1, 1, 1, 2)
    if tensor.spatial[-1] % pixels:
        raise HwgenError("Pixels do not divide")
    return EvictionConfig(
        stream=StreamType(tensor, lanes, pixels), axi=_axi(d), burst=d.one(8, 16, 32, 32),
        depths=(d.spread(1000, 100_000),), styles=(d.one("", "", "block"),),
    )


def _pool(d: Drawer) -> PoolConfig:
    tensor = d.tensor()
    kernel = d.one(2, 3, 5)
    stride = kernel if kernel == 2 else d.one(1, 2)
    pads = ((kernel // 2, kernel // 2) if kernel % 2 else (0, 0),) * 2
    if d.chance(0.6):
        op = MaxPool((kernel,) * 2, (stride,) * 2, pads)
    else:
        counts = kernel % 2 == 0 or d.chance(0.5)
        ratio = 1 / kernel**2 if counts else 1 / np.arange(1, kernel**2 + 1)
        op = AveragePool((kernel,) * 2, Requantise.from_scale(ratio), d.quantisation(tensor.bits),
                         (stride,) * 2, pads, counts)
    return PoolConfig(op=op, tensor=tensor, lanes=d.divisor(tensor.channels, 8),
                      tap_lanes=d.one(1, 1, kernel), multiplier=d.multiplier).at_full_speed()


def _resize(d: Drawer) -> NearestResizeConfig:
    tensor = d.tensor(most=80)
    return NearestResizeConfig(op=Resize((2, 2)), tensor=tensor,
                               lanes=d.divisor(tensor.channels, 8)).at_full_speed()


def _pad(d: Drawer) -> PadConfig:
    tensor = d.tensor(most=80)
    op = Pad(((d.whole(0, 2), d.whole(0, 2)), (d.whole(0, 2), d.whole(1, 2))), None)
    return PadConfig(op=op, tensor=tensor, lanes=d.divisor(tensor.channels, 8)).at_full_speed()


ACTIVATIONS: list[Callable] = [
    lambda x: x / (1 + np.exp(-x)),
    lambda x: 1 / (1 + np.exp(-x)),
    np.tanh,
    lambda x: np.where(x > 0, x, 0.1 * x),
    lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
]


def _table(d: Drawer) -> TableLookupConfig:
    tensor = d.tensor()
    output = d.quantisation(tensor.bits)
    lanes = d.divisor(tensor.channels, 8)
    if d.chance(0.2):
        values = d.random.integers(output.low, output.high + 1,
                                   (tensor.channels, 1 << tensor.bits))
        op = Table(values, output)
    else:
        op = Table.from_function(d.one(*ACTIVATIONS), tensor.quantisation, output)
    config = TableLookupConfig(op=op, tensor=tensor, lanes=lanes)
    return replace(config, depths=(d.depth(config.least_depths[0]),))


def _adder(d: Drawer) -> AdderConfig:
    a = d.tensor()
    b = TensorType(a.shape, d.quantisation(a.bits))
    op = Add.from_types(a.quantisation, b.quantisation, d.quantisation(a.bits))
    config = AdderConfig(op=op, tensors=(a, b), lanes=d.divisor(a.channels, 4))
    return replace(config, depths=(d.depth(config.least_depths[0]),))


def _product(d: Drawer) -> ProductConfig:
    a = d.tensor()
    b = TensorType(a.shape, d.quantisation(a.bits))
    config = ProductConfig(
        op=Mul(d.scales(2.0 ** (2 * a.bits - 3), 1, a.bits), d.quantisation(a.bits)),
        tensors=(a, b), lanes=d.divisor(a.channels, 4),
        multiplier=d.one(d.multiplier, d.multiplier, "fabric"),
    )
    return replace(config, depths=(d.depth(config.least_depths[0]),))


def _global_pool(d: Drawer) -> GlobalPoolConfig:
    tensor = d.tensor(most=40)
    op = GlobalMaxPool()
    if d.chance(0.7):
        op = GlobalAveragePool(Requantise.from_scale(1 / tensor.pixels),
                               d.quantisation(tensor.bits))
    return GlobalPoolConfig(op=op, tensor=tensor, lanes=d.divisor(tensor.channels, 4),
                            multiplier=d.multiplier)


def _argmax(d: Drawer) -> ArgMaxConfig:
    tensor = d.tensor(d.whole(2, 40) * d.one(1, 4, 8))
    return ArgMaxConfig(op=ArgMax(), tensor=tensor, lanes=d.divisor(tensor.channels, 8))


def _channel_max(d: Drawer) -> ChannelMaxConfig:
    tensor = d.tensor(d.whole(2, 40) * d.one(1, 4, 8))
    return ChannelMaxConfig(op=ChannelMax(), tensor=tensor, lanes=d.divisor(tensor.channels, 8))


def _embedding(d: Drawer) -> EmbeddingConfig:
    count, width = d.one(d.whole(20, 300), d.whole(300, 4000)), d.one(16, 32, 64)
    output = d.quantisation(8)
    rows = d.random.integers(output.low, output.high + 1, (count, width))
    tensor = TensorType((d.whole(4, 64), 1), Embedding.ids(count))
    lanes = d.divisor(width, 16)
    style = "distributed" if count <= 300 and d.chance(0.5) else "block"
    return EmbeddingConfig(op=Embedding(rows, output), tensor=tensor, lanes=lanes,
                           weight_style=style)


def _gather(d: Drawer) -> GatherConfig:
    tensor = d.tensor(d.one(16, 32, 64, 116, 232))
    lanes = d.divisor(tensor.channels, 8)
    channels = np.arange(tensor.channels)
    kind = d.one("shuffle", "shuffle", "slice", "random")
    if kind == "shuffle":
        order = channels.reshape(2, -1).T.ravel()
    elif kind == "slice":
        order = channels[lanes * d.whole(0, 1) :][: tensor.channels // 2 // lanes * lanes]
    else:
        order = d.random.permutation(channels)
    return GatherConfig(op=GatherChannels(tuple(order.tolist())), tensor=tensor, lanes=lanes)


def _order(d: Drawer) -> tuple[Rearrange, TensorType, int]:
    """An order, the frame that is put in it, and lanes of words that it keeps together."""
    lanes, size = d.spread(1, 16), d.one(2, 2, 3, 4)
    height, width = d.whole(1, 6) * size, d.whole(2, 30) * size
    kind = d.one("depth", "space", "axes", "reflect", "any")
    if kind == "depth":
        shape, axes = (height, width, size, size, lanes), (0, 2, 1, 3, 4)
        out = (height * size, width * size, lanes)
    elif kind == "space":
        shape, axes = (height // size, size, width // size, size, lanes), (0, 2, 1, 3, 4)
        out = (height // size, width // size, size * size * lanes)
    else:
        shape, axes, out = (height, width, lanes), (1, 0, 2), (width, height, lanes)
    frame = np.arange(math.prod(shape)).reshape(shape)
    if kind == "reflect":
        order = np.pad(frame, [(1, 1), (size, size), (0, 0)], mode="reflect")
    elif kind == "any":
        order = d.random.permutation(frame.reshape(-1, lanes)).reshape(shape)
    else:
        order = frame.transpose(axes).reshape(out)
    channels = size * size * lanes if kind == "depth" else lanes
    tensor = TensorType((frame.size // channels, channels), d.tensor().quantisation)
    return Rearrange(order), tensor, lanes


def _rearrange(d: Drawer) -> RearrangeConfig:
    op, tensor, lanes = _order(d)
    config = RearrangeConfig(op=op, tensor=tensor, lanes=lanes)
    return replace(config, capacity=config.order.least_capacity + d.whole(0, 40))


def _rearrange_off_chip(d: Drawer) -> OffChipRearrangeConfig:
    op, tensor, lanes = _order(d)
    config = OffChipRearrangeConfig(
        op=op, tensor=tensor, lanes=lanes, axi=_axi(d), burst=d.one(8, 16, 32, 32),
        memory_latency=d.one(100, 160, 360), styles=(d.one("", "", "block"),),
    )
    return replace(config, capacity=config.least_capacity + d.whole(0, 4) * config.slot_beats)


def _extremum(d: Drawer) -> ExtremumConfig:
    tensor = d.tensor()
    return ExtremumConfig(op=Extremum(d.chance(0.5)), tensors=(tensor, tensor),
                          lanes=d.divisor(tensor.channels, 16))


def _fifo(d: Drawer) -> FifoConfig:
    tensor = d.tensor()
    branches = d.one(1, 2, 2, 3)
    return FifoConfig(stream=StreamType(tensor, d.divisor(tensor.channels, 16)),
                      branches=branches, depths=tuple(d.spread(4, 600) for _ in range(branches)))


def _concatenate(d: Drawer) -> ConcatenateConfig:
    lanes, first = d.spread(1, 8), d.tensor()
    tensors = tuple(
        TensorType((*first.spatial, lanes * d.spread(1, 32)), first.quantisation)
        for _ in range(d.one(2, 2, 3, 4))
    )
    config = ConcatenateConfig(tensors=tensors, lanes=lanes)
    return replace(config, depths=(d.depth(config.least_depths[0]),))


def _splitter(d: Drawer) -> SplitterConfig:
    lanes = d.spread(1, 8)
    sizes = tuple(lanes * d.spread(1, 32) for _ in range(d.one(2, 2, 3)))
    config = SplitterConfig(op=Split(sizes), tensor=d.tensor(sum(sizes)), lanes=lanes)
    return replace(config, depths=tuple(map(d.depth, config.least_depths)))


def _lane_change(d: Drawer) -> LaneChangeConfig:
    tensor = d.tensor(d.one(24, 48, 96, 64))
    config = LaneChangeConfig(tensor=tensor, lanes_in=d.divisor(tensor.channels, 16),
                              lanes_out=d.divisor(tensor.channels, 16))
    if config.lanes_in == config.lanes_out:
        raise HwgenError("Nothing changes")
    return replace(config, depths=(d.depth(config.least_depths[0]),))


PARTS: dict[str, Callable[[Drawer], Part]] = {
    "queue": _queue,
    "skid": _skid,
    "requantiser": _requantiser,
    "array": _array,
    "window": lambda d: d.one(_conv, _pool, _resize, _pad)(d).window,
    "weight stream": _weight_stream,
    "axi port": _axi_port,
    "repack": _repack,
    "frame reader": lambda d: FrameReaderConfig(axi=_axi(d), **_frame(d)),
    "frame writer": lambda d: FrameWriterConfig(axi=_axi(d), **_frame(d)),
    "frame guard": _frame_guard,
    "shell control": _shell_control,
}
"""Parts of blocks and of the shell."""

BLOCKS: dict[str, Callable[[Drawer], BlockConfig]] = {
    "convolution": _conv,
    "convolution, several pixels a beat": lambda d: _conv(d, wide=True),
    "convolution, tiled": _tiled,
    "convolution, sparse": _sparse,
    "low rank": _low_rank,
    "pool": _pool,
    "resize": _resize,
    "pad": _pad,
    "table": _table,
    "adder": _adder,
    "product": _product,
    "global pool": _global_pool,
    "argmax": _argmax,
    "channel max": _channel_max,
    "embedding": _embedding,
    "gather": _gather,
    "rearrange": _rearrange,
    "rearrange, off chip": _rearrange_off_chip,
    "extremum": _extremum,
    "fifo": _fifo,
    "eviction buffer": _eviction,
    "concatenate": _concatenate,
    "splitter": _splitter,
    "lane change": _lane_change,
    **TOKENS,
}
"""Blocks, as they stand in a pipeline."""


def draw(kind: str, seed: int, multiplier: str = "dsp48e2") -> Part:
    """A random configuration of a kind of part or block, for devices with some multiplier."""
    drawer = Drawer(seed, multiplier)
    while True:
        try:
            return (PARTS | BLOCKS)[kind](drawer)
        except HwgenError:
            continue


class _Part(wiring.Component):
    """A part with plain ports, for streams that are always ready have no signal that says so."""

    def __init__(self, inner: wiring.Component) -> None:
        self.inner = inner
        self.wires = {
            "_".join(map(str, path)): (member, value)
            for path, member, value in inner.signature.flatten(inner)
            if isinstance(value, Signal | data.View)
        }
        super().__init__({name: member for name, (member, _) in self.wires.items()})

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = self.inner
        for name, (member, value) in self.wires.items():
            port = getattr(self, name)
            m.d.comb += value.eq(port) if member.flow == wiring.In else port.eq(value)
        return m


def component(config) -> wiring.Component:
    """The hardware of a configuration."""
    if isinstance(config, BlockConfig):
        return config.create()
    if isinstance(config, MacArrayConfig):
        return MacArray(config)
    if isinstance(config, SkidShape):
        return Skid(config.width)
    if isinstance(config, QueueShape):
        return _Part(Queue(config.width, config.depth, config.claims))
    if isinstance(config, AxiPortConfig):
        return config.create()
    return _Part(config.create())
