"""Tables of foldings: for every way to fold an op, its cycles and what it takes.

Numbers here are those of ``resources()`` of the blocks, computed for thousands of foldings at once:
multipliers exactly, memories but for how weights are dealt out to ports, LUTs nearly.  What they
miss for a whole design is found when it is planned (:mod:`dse.state`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from dse.sparse_layer import Layer
from dse.sparse_ways import Way, sparse_ways
from dse.streaming import External, Foldings, Streamed, memory_takes, streamed, tiles_of
from dse.streams import fold_choices, is_depthwise
from hwgen.blocks.arithmetic import signed_width
from hwgen.blocks.cost import estimate
from hwgen.blocks.mac import chain_length
from hwgen.blocks.multiplier import MULTIPLIERS, Packing
from hwgen.blocks.sparse_conv import usual_queue
from hwgen.blocks.sparse_mac import centred_bits
from hwgen.blocks.storage import (
    STYLES,
    block_count,
    choice_luts,
    ram_luts,
    rom_luts,
    table_count,
    ultra_count,
    ultra_weights,
)
from hwgen.design import Folding
from hwgen.ir import Conv, Convolution, TensorType

__all__ = ["RESOURCES", "Column", "ConvTable", "FixedTable"]

RESOURCES = ("dsp", "lut", "bram18", "uram", "bandwidth")
"""What the search divides: bandwidth in bytes of off-chip memory a frame.  Flip-flops are only
checked, for no design runs out of them first."""

DEEPEST_LUTS = 512
"""Words of the deepest memory in LUTs: the choice among more would be slow."""

LARGE_WEIGHTS = 6 * 18432
"""Bits of weights from which on they may be streamed."""

NONE = 1e9
"""Taken by what cannot be built."""


@dataclass(frozen=True)
class Column:
    """One way to build something.

    Members
    -------
    takes : of each of :data:`RESOURCES`
    cycles : a frame
    choice : what it is, for whoever made the table
    window : what of it is the window's memory, whose size is a guess until it is planned
    """

    takes: tuple[float, ...]
    cycles: int
    choice: object
    window: tuple[float, ...] = ()


class FixedTable:
    """A few ways to build something, each with the same cycles.

    Parameters
    ----------
    columns : sequence of :class:`Column`
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = columns
        self._takes = np.array([column.takes for column in columns])

    def limit(self, interval: int) -> bool:
        """All ways are always as fast."""
        return True

    def best(self, prices: np.ndarray) -> Column:
        """The cheapest way."""
        return self.columns[int((self._takes @ prices).argmin())]


@dataclass(frozen=True)
class _Memory:
    """A memory of each folding, per style: what it takes of LUTs, blocks and UltraRAMs."""

    lut: np.ndarray
    bram18: np.ndarray
    uram: np.ndarray

    def takes(self, keep: np.ndarray) -> np.ndarray:
        """Of each of :data:`RESOURCES`, ``(5, styles, foldings kept)``."""
        kept = self.lut[:, keep], self.bram18[:, keep], self.uram[:, keep]
        return np.stack([np.zeros_like(kept[0]), *kept, np.zeros_like(kept[0])])


def _buffer(width: np.ndarray, depth: np.ndarray, copies: np.ndarray) -> _Memory:
    zero = np.zeros(len(width), np.int64)
    luts = np.where(depth <= DEEPEST_LUTS, copies * ram_luts(width, depth), NONE)
    return _Memory(
        np.stack([luts, zero, zero]),
        np.stack([zero, copies * block_count(width, depth), zero]),
        np.stack([zero, zero, copies * ultra_count(width, depth)]),
    )


def _weights(width: np.ndarray, depth: np.ndarray, chain: np.ndarray) -> _Memory:
    """Memories of weights: one for each pair of products in a chain, the last perhaps for one."""
    zero = np.zeros(len(width), np.int64)
    pairs = np.maximum(chain // 2, 1)
    each = np.where(chain > 1, -(-2 * width // chain), width)
    rest = np.maximum(width - pairs * each, 0)
    ports = pairs + (rest > 0)

    def both(count) -> np.ndarray:
        last = np.where(rest > 0, count(np.maximum(rest, 1), depth), 0)
        return pairs * count(each, depth) + last

    return _Memory(
        np.stack([np.where(depth <= DEEPEST_LUTS, rom_luts(width, depth), NONE),
                  choice_luts(width, -(-depth // 2048)),
                  choice_luts(width, -(-depth // 4096)) + 60 * ports + width // 36]),
        np.stack([zero, both(table_count), zero]),
        np.stack([zero, zero, both(ultra_weights)]),
    )


class ConvTable:
    """All foldings of a convolution between streams of given lanes and pixels.

    Parameters
    ----------
    op, tensor : the convolution, and the type of its input
    lanes_in, lanes_out, pixels_in, pixels_out : of the streams
    multiplier : the board's
    ultra : whether the device has UltraRAM
    sites : pixels that the window's buffer will hold, if it is known
    external : off-chip memory, if weights may be there
    known : for some tiles, the sites of the window's buffer and the depth of the queue
    layer : statistics of its zeros, if it may be sparse
    """

    def __init__(
        self, op: Convolution, tensor: TensorType, lanes_in: int, lanes_out: int, pixels_in: int,
        pixels_out: int, multiplier: str, ultra: bool, sites: int = 0,
        external: External | None = None,
        known: Mapping[int, tuple[int, int]] = MappingProxyType({}),
        layer: Layer | None = None,
    ) -> None:
        self.op, self.tensor = op, tensor
        self.lanes_in, self.pixels_in = lanes_in, pixels_in
        self.lanes_out, self.pixels_out = lanes_out, pixels_out
        self.multiplier = multiplier
        self.banks = 1
        if max(pixels_in, pixels_out) > 1:
            self.banks = math.lcm(pixels_in, pixels_out * op.window.stride[-1])
        self.windows = op.infer(tensor)[0].pixels // pixels_out
        self.styles = len(STYLES) if ultra else len(STYLES) - 1
        self.sites = -(-(sites or self._guess_pixels()) // self.banks)
        parts = [self._part(*choice) for choice in self._choices()]
        self._sparse: tuple[Way, ...] = ()
        if layer is not None and (found := self._sparse_part(layer)) is not None:
            parts.append(found)
        self._cycles, self._dsp, self._lut = (
            np.concatenate([part[n] for part in parts]) for n in range(3)
        )
        self._fields = np.concatenate([part[3] for part in parts], axis=1)
        self._weights, self._window = (
            _Memory(*(np.concatenate([getattr(part[n], name) for part in parts], axis=1)
                      [: self.styles] for name in ("lut", "bram18", "uram")))
            for n in (4, 5)
        )
        # Of equal ones, first the one with few copies of the buffer, and few, long columns.
        self._preferred = np.lexsort((self._fields[3], self._fields[1]))
        self.requantisers = np.array(self._requantisers())
        self._streamed: Streamed | None = None
        weights = op.weight.size * op.weight_bits
        if external is not None and weights > LARGE_WEIGHTS:
            tiles = tiles_of(op, tensor, self.banks, pixels_out, lanes_out)
            shapes = Foldings(*np.concatenate([part[6] for part in parts], axis=1))
            if tiles is not None:
                self._streamed = streamed(tiles, shapes, external, known, ultra)
        self._columns: dict[tuple[int, int], Column] = {}
        self._interval = 0

    def _guess_pixels(self) -> int:
        """Pixels in the buffer, more or less: the window's rows, and those coming in."""
        window = self.op.window
        outer = window.extent[0] + window.stride[0] - 1 if window.taps > 1 else 0
        row = math.prod(self.tensor.spatial[1:])
        return min(self.tensor.pixels, outer * row + 4 * self.banks)

    def _choices(self):
        """Channels, pes and groups in parallel, each with what multiplies."""
        op = self.op
        cin, cout = op.weight.shape[-1], op.cout // op.groups
        for multiplier in dict.fromkeys((self.multiplier, "fabric")):
            step = math.gcd(self.lanes_in, cin)
            if cout % self.lanes_out == 0:
                yield multiplier, fold_choices(cin, step), fold_choices(cout, self.lanes_out), \
                    np.array([1])
            if op.groups > 1:
                groups = fold_choices(op.groups)[1:]
                rest = op.groups % groups
                whole = ((groups * cout % self.lanes_out == 0) & (rest * cout % self.lanes_out == 0)
                         & (groups * cin % self.lanes_in == 0))
                if whole.any():
                    yield multiplier, np.array([cin]), np.array([cout]), groups[whole]

    def shared(self, multiplier: str) -> str:
        """What products in a multiplier share."""
        pairs = self.pixels_out > 1 and is_depthwise(self.op) and self.tensor.bits <= 8
        return "weight" if pairs and MULTIPLIERS[multiplier].dsp else "activation"

    def packing(self, multiplier: str) -> Packing:
        """How products share a multiplier."""
        bits, op = self.tensor.bits, self.op
        if self.shared(multiplier) == "weight":
            return Packing.densest(multiplier, op.weight_bits, bits, 1 << (bits - 1))
        return Packing.densest(multiplier, bits, op.weight_bits, op.weight_limit)

    def _part(self, multiplier: str, channels: np.ndarray, pes: np.ndarray, groups: np.ndarray):
        op = self.op
        cin, cout = op.weight.shape[-1], op.cout // op.groups
        taps = fold_choices(op.window.taps)
        cl, tl, pe, gl = (a.ravel() for a in np.meshgrid(channels, taps, pes, groups,
                                                         indexing="ij"))
        steps = -(-op.window.taps // tl) * -(-cin // cl)
        folds = -(-op.groups // gl) * -(-cout // pe)
        beats = pe * gl // self.lanes_out
        cycles = self.windows * folds * np.maximum(steps, beats)
        # The window takes as many lanes as its words are made of.
        taken = np.gcd(np.gcd(self.lanes_in, gl * cl), np.where(gl > 1, op.groups * cin, cin))
        cycles = np.maximum(cycles, self.tensor.size // (taken * self.pixels_in))
        packing, simd = self.packing(multiplier), cl * tl
        by_weight = self.shared(multiplier) == "weight"
        if by_weight:
            columns = gl * pe * -(-self.pixels_out // packing.products)
            word = packing.activation_bits
        else:
            columns = self.pixels_out * gl * -(-pe // packing.products)
            word = packing.word_bits
        dsp = packing.device.dsp * simd * columns
        row, depth = gl * pe * simd * word, math.prod(op.repeat) * folds * steps
        chain = chain_length(packing, simd)
        weights = _weights(row, depth, chain if packing.device.sum_bits else np.ones_like(chain))
        bits = gl * cl * self.tensor.bits
        segments = np.where(gl > 1, 1, op.groups)
        words = segments * -(-(self.tensor.channels // segments) // (gl * cl))
        copies = tl * self.banks
        window = _buffer(bits, self.sites * words, copies)
        lut = self._logic(
            packing, simd, chain, columns, gl * pe * self.pixels_out, copies, bits, tl, beats
        )
        kind = np.full(len(cl), (self.multiplier, "fabric").index(multiplier))
        dense = np.full(len(cl), -1)
        shapes = np.stack([steps * math.prod(op.repeat), folds, np.maximum(steps, beats), row, bits,
                           words, copies])
        return cycles, dsp, lut, np.stack([cl, tl, gl, pe, kind, dense]), \
            weights, window, shapes

    def _sparse_part(self, layer: Layer):
        """The ways to pass over zeros, as :meth:`_part` has those that do not."""
        op, one = self.op, (self.pixels_in, self.pixels_out) == (1, 1)
        cin, cout = op.weight.shape[-1], op.cout // op.groups
        if not one or not isinstance(op, Conv) or self.tensor.bits > 8 or cout % self.lanes_out:
            return None
        found = sparse_ways(layer, math.gcd(self.lanes_in, cin), self.lanes_out)
        if not found:
            return None
        self._sparse = found
        cl, tl, pe, k = (np.array([getattr(way, name) for way in found])
                         for name in ("channel_lanes", "tap_lanes", "pe", "multipliers"))
        mean = np.array([way.cycles for way in found])
        steps = -(-op.window.taps // tl) * -(-cin // cl)
        folds, beats = op.groups * -(-cout // pe), pe // self.lanes_out
        cycles = np.ceil(self.windows * folds * np.maximum(mean, np.maximum(steps, beats)))
        taken = np.gcd(np.gcd(self.lanes_in, cl), cin)
        cycles = np.maximum(cycles.astype(np.int64), self.tensor.size // taken)
        bits = centred_bits(self.tensor.bits, self.tensor.zero_point)
        packing = Packing.densest(self.multiplier, bits, op.weight_bits, op.weight_limit)
        columns, streams = -(-pe // packing.products), cl * tl
        dsp = packing.device.dsp * k * columns
        each, depth = -(-streams // k), folds * steps
        table = _weights(pe * packing.word_bits, each * depth, np.ones_like(k))
        weights = _Memory(table.lut * k, table.bram18 * k, table.uram * k)
        words = op.groups * -(-cin // cl)
        word = cl * self.tensor.bits
        window = _buffer(word, self.sites * words, tl)
        lut = self._logic(packing, k, chain_length(packing, k), columns, pe, tl, word, tl, beats)
        address = np.ceil(np.log2(np.maximum(each * depth, 2)))
        entry = (each * (self.tensor.bits + 1) + address + 1).astype(int)
        queue = memory_takes(entry, usual_queue(steps), 1, False)[:, 0]
        weights.bram18[:] += (k * queue[:, 1]).astype(int)
        lut = lut + k * (queue[:, 0] + each * (self.tensor.bits / 2 + 8) + 2 * address
                         + self.tensor.bits + 30) + 4 * streams
        fields = np.stack([cl, tl, np.ones_like(cl), pe, np.zeros_like(cl), np.arange(len(cl))])
        # Their weights are not streamed: too few folds.
        shapes = np.stack([steps, np.zeros_like(cl), steps, pe, word, words, tl])
        return cycles, dsp, lut, fields, weights, window, shapes

    def _logic(
        self, packing: Packing, simd: np.ndarray, chain: np.ndarray, columns: np.ndarray,
        results: np.ndarray, copies: np.ndarray, bits: np.ndarray, taps: np.ndarray,
        beats: np.ndarray,
    ) -> np.ndarray:
        """LUTs that grow with the folding, as :mod:`hwgen.blocks.area` has them."""
        acc = signed_width(*self.op.accumulator_range(self.tensor))
        chains = -(-simd // chain)
        extra = results - columns
        field = packing.field if packing.products > 1 else signed_width(
            -packing.bound(1), packing.bound(1)) + 3
        lut = estimate(
            "column", "lut", sum=results * (chains - 1) * (field + 3), acc=results * acc,
            one=results, carry=extra * chains, lowest=extra * simd * packing.guard,
            field=extra * chains * packing.guard,
        )
        lut = lut + estimate("convolution", "lut", lut_held=results * acc * (beats > 1))
        word = bits
        choices = np.maximum(-(-self.op.window.taps // taps) - 1, 0)
        address = np.log2(np.maximum(self.sites * 4, 2))
        lut = lut + estimate(
            "tap", "lut", lut_address=copies * address, lut_one=copies,
            lut_offset=copies * choices * address,
            lut_fill=taps * self.pixels_out * word * (self.op.window.taps > 1),
            lut_banks=taps * self.pixels_out * word * (self.banks > 1),
        )
        if not packing.device.dsp:
            wide, narrow = self.op.weight_bits, self.tensor.bits
            rows = -(-narrow // 2)
            tree = sum((rows >> k) * (wide + (2 << k)) for k in range(1, rows.bit_length()))
            count = results * simd
            lut = lut + estimate("fabric", "lut", double=count * rows * (wide + 2),
                                 tree=count * tree, one=count)
            lut = lut + estimate("tree", "lut", operand=count * (wide + narrow),
                                 sum=results * (simd - chains) * (wide + narrow + 1))
        return lut

    def _requantisers(self) -> list[np.ndarray]:
        """What the requantisers take, of the board's multipliers and of the fabric."""
        bits = (signed_width(*self.op.accumulator_range(self.tensor)),
                self.op.requantise.multiplier_bits + 1)
        lanes = self.lanes_out * self.pixels_out
        wide, narrow = max(bits), min(bits)
        dsps = MULTIPLIERS[self.multiplier].dsps(wide, narrow)
        kept = wide + narrow - 1 - int(self.op.requantise.shift.min())
        rounding = estimate(
            "round", "lut", lut_one=1, lut_kept=kept, lut_by_1=2.5 * kept,
            lut_output=1.5 * self.op.output.bits, lut_zero=kept,
        )
        rows = -(-narrow // 2)
        tree = sum((rows >> k) * (wide + (2 << k)) for k in range(1, rows.bit_length()))
        product = estimate("fabric", "lut", double=rows * (wide + 2), tree=tree, one=1)
        return [
            lanes * np.array([dsps, rounding, 0, 0, 0]),
            lanes * np.array([0, rounding + product, 0, 0, 0]),
        ]

    def limit(self, interval: int) -> bool:
        """Keep those that need at most an interval, and not far less; whether there are any."""
        if interval == self._interval:
            return True
        cycles = self._cycles[self._preferred]
        quick = cycles <= interval
        if not quick.any():
            return False
        least = min(cycles[quick].max(), interval) // 4
        self._kept = keep = self._preferred[quick & (cycles >= least)]
        logic = np.zeros((len(RESOURCES), 1, 1, len(keep)))
        logic[0], logic[1] = self._dsp[keep], self._lut[keep]
        # Folding, style of the weights, style of the window's buffer; the last changes fastest.
        takes = (logic + self._weights.takes(keep)[:, :, None] + self._window.takes(keep)[:, None])
        self._takes = np.moveaxis(takes, -1, 1).reshape(len(RESOURCES), -1).T
        self._columns, self._interval = {}, interval
        if self._streamed is not None:
            # They are slowed down to the interval: much quicker ones would be for nothing.
            self._stream(self._streamed, interval, least * 2)
        return True

    def _stream(self, ways: Streamed, interval: int, least: int) -> None:
        """Add the ways that stream the weights."""
        cycles = self._cycles[ways.folding]
        self._ways = ways = ways.take(np.flatnonzero(
            (cycles <= interval) & (cycles >= least) & (ways.cycles <= interval)
        ))
        self._resident = len(self._takes)
        takes = np.zeros((*ways.takes.shape[:-1], len(RESOURCES)))
        takes[..., 1:4] = ways.takes
        each = np.stack([self._dsp[ways.folding], self._lut[ways.folding]], axis=-1)
        takes[..., :2] += each[:, None, None, None]
        takes[..., 4] = ways.moved[:, None, None, None]
        self._takes = np.concatenate([self._takes, takes.reshape(-1, len(RESOURCES))])

    def best(self, prices: np.ndarray) -> Column:
        """The cheapest folding, with the cheapest memories."""
        cost = self._takes @ prices
        k = int((cost <= cost.min() * (1 + 1e-9)).argmax())
        key = k, int((self.requantisers @ prices).argmin())
        if key not in self._columns:
            self._columns[key] = self._column(*key)
        return self._columns[key]

    def _column(self, k: int, which: int) -> Column:
        """A folding with a style for each memory, and what requantises."""
        takes = self._takes[k] + self.requantisers[which]
        tile = resident = pace = 0
        if self._streamed is not None and k >= self._resident:
            count = self.styles - 1
            k, styles = divmod(k - self._resident, count**3)
            first, second = styles // count**2, styles // count % count
            weights, window = ("", "ultra")[first], ("", "ultra")[second]
            buffer = (0, *self._ways.window[k, second], 0)
            tile, resident = int(self._ways.tile[k]), int(self._ways.resident[k])
            k = self._ways.folding[k]
            # As slow as it may be, so that the stream of weights is even.
            pace = self._interval // (self.windows * -(-self.op.cout // int(self._fields[3, k])))
        else:
            k, styles = divmod(k, self.styles**2)
            first, second = divmod(styles, self.styles)
            weights, window = STYLES[first], STYLES[second]
            k = self._kept[k]
            buffer = self._window.takes(np.array([k]))[:, second, 0]
        cl, tl, gl, pe, kind, way = (int(n) for n in self._fields[:, k])
        multiplier = (self.multiplier, "fabric")[kind]
        requantiser = (self.multiplier, "fabric")[which]
        folding = Folding(
            channel_lanes=cl, tap_lanes=tl, group_lanes=gl, pe=pe, multiplier=multiplier,
            requantiser="" if requantiser == multiplier else requantiser,
            shared=self.shared(multiplier) if way < 0 else "activation",
            weights=weights, window=window, tile=tile, resident=resident,
            fold_cycles=pace, sparse=self._sparse[way].sparse if way >= 0 else None,
        )
        return Column(tuple(float(n) for n in takes), int(self._cycles[k]), folding,
                      tuple(float(n) for n in buffer))
