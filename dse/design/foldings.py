"""Tables of foldings: for every way to fold an op, its cycles and what it takes.

Numbers here are those of ``resources()`` of the blocks, computed for thousands of foldings at once:
multipliers exactly, memories but for how weights are dealt out to ports, LUTs nearly.  What they
miss for a whole design is found when it is planned (:mod:`hwgen.dse.design.state`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from hwgen.blocks.sparse_conv import usual_queue
from hwgen.design import Folding
from hwgen.device.arithmetic import signed_width
from hwgen.device.cost import estimate
from hwgen.device.multiplier import MULTIPLIERS, Packing
from hwgen.device.storage import (
    FAMILY,
    STYLES,
    block_count,
    choice_luts,
    ram_luts,
    rom_luts,
    table_count,
    ultra_count,
    ultra_weights,
)
from hwgen.dse.design.streaming import (
    External,
    Foldings,
    Streamed,
    memory_takes,
    streamed,
    tiles_of,
)
from hwgen.dse.design.streams import fold_choices, is_depthwise
from hwgen.dse.sparse.layer import Layer
from hwgen.dse.sparse.ways import Way, sparse_ways
from hwgen.ir import Conv, Convolution, TensorType
from hwgen.parts.mac import chain_length
from hwgen.parts.sparse_mac import centred_bits

__all__ = ["RESOURCES", "Column", "ConvTable", "FixedTable"]

RESOURCES = ("dsp", "ff", "lut", "bram18", "uram", "bandwidth")
"""What the search divides: bandwidth in bytes of off-chip memory a frame."""

LOGIC, MEMORY = slice(0, 3), slice(1, 5)
"""Of them, those that logic takes, and those that memories on the chip take."""

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

    def limit(self, interval: int) -> int:
        """All ways are always as fast."""
        return 1

    def cheapest(self, prices: np.ndarray) -> tuple[list[int], np.ndarray]:
        """The indices of the cheapest ways, and what they cost."""
        cost = prices @ self._takes.T
        return cost.argmin(1).tolist(), cost.min(1)

    def takes(self, way: int) -> np.ndarray:
        """What a way takes."""
        return self._takes[way]

    def column(self, way: int) -> Column:
        """A way."""
        return self.columns[way]


def _styles(
    luts: Sequence, blocks: np.ndarray, ultras: np.ndarray, registers: np.ndarray | float = 0
) -> np.ndarray:
    """A memory of each folding, ``(flip-flops, LUTs, blocks and UltraRAMs, styles, foldings)``.

    ``registers`` are flip-flops behind a memory in LUTs, which the others have inside.
    """
    takes = np.zeros((4, len(STYLES), len(blocks)))
    takes[0, 0], takes[1], takes[2, 1], takes[3, 2] = registers, luts, blocks, ultras
    return takes


def _buffer(width: np.ndarray, depth: np.ndarray, copies: np.ndarray, family: str) -> np.ndarray:
    zero = np.zeros(len(width))
    luts = np.where(depth <= DEEPEST_LUTS, copies * ram_luts(width, depth, family), NONE)
    return _styles((luts, zero, zero), copies * block_count(width, depth),
                   copies * ultra_count(width, depth))


def _weights(width: np.ndarray, depth: np.ndarray, chain: np.ndarray, family: str) -> np.ndarray:
    """Memories of weights: one for each pair of products in a chain, the last perhaps for one."""
    pairs = np.maximum(chain // 2, 1)
    each = np.where(chain > 1, -(-2 * width // chain), width)
    rest = np.maximum(width - pairs * each, 0)
    more = np.flatnonzero(rest)
    ports = pairs + (rest > 0)

    def both(count) -> np.ndarray:
        total = pairs * count(each, depth)
        total[more] += count(rest[more], depth[more])
        return total

    return _styles(
        (np.where(depth <= DEEPEST_LUTS, rom_luts(width, depth, family), NONE),
         choice_luts(width, -(-depth // 2048), family),
         choice_luts(width, -(-depth // 4096), family) + 60 * ports + width // 36),
        both(table_count), both(ultra_weights),
         estimate("weights", "ff", family, ff_words=width),
    )


def _estimates(kinds: Sequence[tuple[str, dict]], family: str) -> tuple:
    """Flip-flops and LUTs of some kinds of parts with their features."""
    ff, lut = (sum(estimate(kind, what, family, **features) for kind, features in kinds)
               for what in ("ff", "lut"))
    return ff, lut


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
    family : the device's
    """

    def __init__(
        self, op: Convolution, tensor: TensorType, lanes_in: int, lanes_out: int, pixels_in: int,
        pixels_out: int, multiplier: str, ultra: bool, sites: int = 0,
        external: External | None = None,
        known: Mapping[int, tuple[int, int]] = MappingProxyType({}),
        layer: Layer | None = None, family: str = FAMILY,
    ) -> None:
        self.op, self.tensor = op, tensor
        self.lanes_in, self.pixels_in = lanes_in, pixels_in
        self.lanes_out, self.pixels_out = lanes_out, pixels_out
        self.multiplier, self.family = multiplier, family
        self.banks = 1
        if max(pixels_in, pixels_out) > 1:
            self.banks = math.lcm(pixels_in, pixels_out * op.window.stride[-1])
        self.windows = op.infer(tensor)[0].pixels // pixels_out
        self.styles = len(STYLES) if ultra else len(STYLES) - 1
        self.sites = -(-(sites or self._guess_pixels()) // self.banks)
        parts = self._dense_parts()
        self._sparse: tuple[Way, ...] = ()
        if layer is not None and (found := self._sparse_part(layer)) is not None:
            parts.append(found)
        self._cycles, self._logic, self._fields, self._weights, self._window = (
            np.concatenate([part[n] for part in parts], axis=-1) for n in range(5)
        )
        # Of equal ones, first the one with few copies of the buffer, and few, long columns.
        self._preferred = np.lexsort((self._fields[3], self._fields[1]))
        self._ordered = self._cycles[self._preferred]
        self.requantisers = np.array(self._requantisers())
        self._streamed: Streamed | None = None
        weights = op.weight.size * op.weight_bits
        if external is not None and weights > LARGE_WEIGHTS:
            tiles = tiles_of(op, tensor, self.banks, pixels_out, lanes_out)
            shapes = Foldings(*np.concatenate([part[5] for part in parts], axis=-1))
            if tiles is not None:
                self._streamed = streamed(tiles, shapes, external, known, ultra, family)
        self._interval = self._slowest = 0

    def _guess_pixels(self) -> int:
        """Pixels in the buffer, more or less: the window's rows, and those coming in."""
        window = self.op.window
        outer = window.extent[0] + window.stride[0] - 1 if window.taps > 1 else 0
        row = math.prod(self.tensor.spatial[1:])
        return min(self.tensor.pixels, outer * row + 4 * self.banks)

    def _choices(self) -> np.ndarray:
        """Channels, taps, pes and groups in parallel, ``(4, foldings)``."""
        op = self.op
        cin, cout = op.weight.shape[-1], op.cout // op.groups
        choices = []
        if cout % self.lanes_out == 0:
            step = math.gcd(self.lanes_in, cin)
            choices.append((fold_choices(cin, step), fold_choices(cout, self.lanes_out), [1]))
        if op.groups > 1:
            groups = fold_choices(op.groups)[1:]
            rest = op.groups % groups
            whole = ((groups * cout % self.lanes_out == 0) & (rest * cout % self.lanes_out == 0)
                     & (groups * cin % self.lanes_in == 0))
            choices.append(([cin], [cout], groups[whole]))
        taps = fold_choices(op.window.taps)
        return np.concatenate([
            np.stack(np.meshgrid(channels, taps, pes, groups, indexing="ij")).reshape(4, -1)
            for channels, pes, groups in choices
        ], axis=1)

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

    def _dense_parts(self) -> list[tuple[np.ndarray, ...]]:
        """All foldings, with each multiplier: cycles, logic, fields of the folding,
        memories of the weights and of the window, what :class:`Foldings` has."""
        choices = self._choices()
        parts = []
        for kind, multiplier in enumerate(dict.fromkeys((self.multiplier, "fabric"))):
            densest, weights = self.packing(multiplier), self.shared(multiplier) == "weight"
            outputs = np.full_like(choices[2], self.pixels_out) if weights else choices[2]
            for products in range(1, densest.products + 1):
                # With fewer outputs than products, fewer are packed, which makes longer chains.
                same = (outputs == products if products < densest.products
                        else outputs >= products)
                if same.any():
                    parts.append(self._dense_part(
                        kind, replace(densest, products=products), weights, choices[:, same]))
        return parts

    def _dense_part(
        self, kind: int, packing: Packing, shared_weight: bool, choices: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Foldings of a multiplier that packs the same number of products."""
        op = self.op
        cin, cout = op.weight.shape[-1], op.cout // op.groups
        cl, tl, pe, gl = choices
        steps = -(-op.window.taps // tl) * -(-cin // cl)
        folds = -(-op.groups // gl) * -(-cout // pe)
        beats = pe * gl // self.lanes_out
        cycles = self.windows * folds * np.maximum(steps, beats)
        # The window takes as many lanes as its words are made of.
        taken = np.gcd(np.gcd(self.lanes_in, gl * cl), np.where(gl > 1, op.groups * cin, cin))
        cycles = np.maximum(cycles, self.tensor.size // (taken * self.pixels_in))
        bits = gl * cl * self.tensor.bits
        segments = np.where(gl > 1, 1, op.groups)
        words = segments * -(-(self.tensor.channels // segments) // (gl * cl))
        copies = tl * self.banks
        window = _buffer(bits, self.sites * words, copies, self.family)
        phases, simd, results = math.prod(op.repeat), cl * tl, gl * pe * self.pixels_out
        if shared_weight:
            columns = gl * pe * -(-self.pixels_out // packing.products)
            word = packing.activation_bits
        else:
            columns = self.pixels_out * gl * -(-pe // packing.products)
            word = packing.word_bits
        row, chain = gl * pe * simd * word, chain_length(packing, simd)
        weights = _weights(row, phases * folds * steps,
                           chain if packing.device.sum_bits else np.ones_like(chain), self.family)
        dsp = packing.device.dsp * simd * columns
        ff, lut = self._fabric(packing, simd, chain, columns, results, copies, bits, tl, beats)
        fields = np.stack([cl, tl, gl, pe, np.full_like(cl, kind), np.full_like(cl, -1)])
        shapes = np.stack([steps * phases, folds, np.maximum(steps, beats), row, bits, words,
                           copies])
        return cycles, np.stack([dsp, ff, lut]), fields, weights, window, shapes

    def _sparse_part(self, layer: Layer):
        """The ways to pass over zeros, as :meth:`_dense_parts` has those that do not."""
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
        weights = k * _weights(pe * packing.word_bits, each * depth, np.ones_like(k),
                               self.family)
        words = op.groups * -(-cin // cl)
        word = cl * self.tensor.bits
        window = _buffer(word, self.sites * words, tl, self.family)
        ff, lut = self._fabric(
            packing, k, chain_length(packing, k), columns, pe, tl, word, tl, beats)
        address = np.ceil(np.log2(np.maximum(each * depth, 2)))
        entry = (each * (self.tensor.bits + 1) + address + 1).astype(int)
        queue = memory_takes(entry, usual_queue(steps), 1, False, self.family)[:, 0]
        weights[2] += (k * queue[:, 1]).astype(int)
        ff = ff + k * (5 * entry + address) + streams * (bits + 1)
        lut = lut + k * (queue[:, 0] + each * (self.tensor.bits / 2 + 8) + 2 * address
                         + self.tensor.bits + 30) + 4 * streams
        fields = np.stack([cl, tl, np.ones_like(cl), pe, np.zeros_like(cl), np.arange(len(cl))])
        # Their weights are not streamed: too few folds.
        shapes = np.stack([steps, np.zeros_like(cl), steps, pe, word, words, tl])
        return cycles, np.stack([dsp, ff, lut]), fields, weights, window, shapes

    def _fabric(
        self, packing: Packing, simd: np.ndarray, chain: np.ndarray, columns: np.ndarray,
        results: np.ndarray, copies: np.ndarray, bits: np.ndarray, taps: np.ndarray,
        beats: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Flip-flops and LUTs that grow with the folding, as :mod:`hwgen.device.area` has them."""
        acc = signed_width(*self.op.accumulator_range(self.tensor))
        chains = -(-simd // chain)
        extra = results - columns
        field = packing.field if packing.products > 1 else signed_width(
            -packing.bound(1), packing.bound(1)) + 3
        choices = np.maximum(-(-self.op.window.taps // taps) - 1, 0)
        address = np.log2(np.maximum(self.sites * 4, 2))
        filled = taps * self.pixels_out * bits
        kinds: list[tuple[str, dict]] = [
            ("column", {
                "sum": results * (chains - 1) * (field + 3), "acc": results * acc,
                "one": results, "carry": extra * chains, "lowest": extra * simd * packing.guard,
                "field": extra * chains * packing.guard,
            }),
            ("convolution", {
                "lut_held": results * acc * (beats > 1), "ff_register": results * acc,
            }),
            ("tap", {
                "ff_register": copies * (3 * address + 1 + bits), "lut_address": copies * address,
                "lut_one": copies, "lut_offset": copies * choices * address,
                "lut_fill": filled * (self.op.window.taps > 1),
                "lut_banks": filled * (self.banks > 1),
            }),
        ]
        if not packing.device.sum_bits:
            wide, narrow = (packing.word_bits, packing.activation_bits)
            if not packing.device.dsp:
                wide, narrow = self.op.weight_bits, self.tensor.bits
            count = columns * simd
            kinds += self._product(packing.multiplier, wide, narrow, count)
            kinds.append(("tree", {
                "operand": count * (wide + narrow),
                "sum": columns * (simd - chains) * (wide + narrow + 1),
            }))
        ff, lut = _estimates(kinds, self.family)
        return ff, lut

    def _product(self, multiplier: str, wide: int, narrow: int, count) -> list[tuple[str, dict]]:
        """The parts of some products."""
        if MULTIPLIERS[multiplier].dsp:
            return [("product", {"ff_register": count * (wide + narrow)})]
        rows = -(-narrow // 2)
        tree = sum((rows >> k) * (wide + (2 << k)) for k in range(1, rows.bit_length()))
        return [("fabric", {"double": count * rows * (wide + 2), "tree": count * tree,
                            "one": count})]

    def _requantisers(self) -> list[np.ndarray]:
        """What the requantisers take, of the board's multipliers and of the fabric."""
        bits = (signed_width(*self.op.accumulator_range(self.tensor)),
                self.op.requantise.multiplier_bits + 1)
        lanes = self.lanes_out * self.pixels_out
        wide, narrow = max(bits), min(bits)
        kept = wide + narrow - 1 - int(self.op.requantise.shift.min())
        rounding = ("round", {
            "lut_one": 1, "lut_kept": kept, "lut_by_1": 2.5 * kept,
            "lut_output": 1.5 * self.op.output.bits, "lut_zero": kept,
            "ff_register": wide + narrow + 3 * kept + self.op.output.bits + 3,
        })
        return [
            lanes * np.array([
                MULTIPLIERS[multiplier].dsps(wide, narrow) if multiplier != "fabric" else 0,
                *_estimates([rounding, *self._product(multiplier, wide, narrow, 1)], self.family),
                0, 0, 0,
            ])
            for multiplier in (self.multiplier, "fabric")
        ]

    def limit(self, interval: int) -> int:
        """Keep those that need at most an interval, and not far less; the slowest one's cycles."""
        if interval == self._interval:
            return self._slowest
        cycles = self._ordered
        quick = cycles <= interval
        slowest = int(cycles.max(where=quick, initial=0))
        if not slowest:
            return 0
        self._interval, self._slowest = interval, slowest
        least = slowest // 4
        self._kept = self._preferred[quick & (cycles >= least)]
        # What the folding takes, each style of the weights, and each of the window's buffer.
        self._shares = self._logic[:, self._kept], *(
            memory[:, : self.styles, self._kept].reshape(len(memory), -1)
            for memory in (self._weights, self._window)
        )
        if self._streamed is not None:
            # They are slowed down to the interval: much quicker ones would be for nothing.
            self._stream(self._streamed, interval, least * 2)
        return slowest

    def _stream(self, ways: Streamed, interval: int, least: int) -> None:
        """Take up the ways that stream the weights."""
        cycles = self._cycles[ways.folding]
        self._ways = ways = ways.take(np.flatnonzero(
            (cycles <= interval) & (cycles >= least) & (ways.cycles <= interval)
        ))
        takes = np.zeros((*ways.takes.shape[:-1], len(RESOURCES)))
        takes[..., 2:5] = ways.takes
        takes[..., LOGIC] += self._logic[:, ways.folding].T[:, None, None, None]
        takes[..., -1] = ways.moved[:, None, None, None]
        self._streams = takes.reshape(-1, len(RESOURCES))

    def cheapest(self, prices: np.ndarray) -> tuple[list[tuple[int, ...]], np.ndarray]:
        """The cheapest folding, with the cheapest memories.

        See :class:`hwgen.dse.design.allocate.Table`.

        A way is its index, that of what requantises, and the styles of the weights and of the
        window's buffer; without styles, weights are streamed.
        """
        logic, weights, window = self._shares
        each = prices[:, LOGIC] @ logic
        first, second = ((prices[:, MEMORY] @ memory).reshape(len(prices), self.styles, -1)
                         for memory in (weights, window))
        cost = each + first.min(1) + second.min(1)
        if self._streamed is not None:
            cost = np.concatenate([cost, prices @ self._streams.T], axis=1)
        least = cost.min(1)
        most, ways = least * (1 + 1e-9), []
        requantisers = prices @ self.requantisers.T
        chosen = (cost <= most[:, None]).argmax(1), requantisers.argmin(1)
        for n, (k, which) in enumerate(zip(*(a.tolist() for a in chosen), strict=True)):
            if k < each.shape[1]:
                styles = each[n, k] + first[n, :, k, None] + second[n, :, k] <= most[n]
                ways.append((k, which, *divmod(int(styles.argmax()), self.styles)))
            else:
                ways.append((k - each.shape[1], which))
        return ways, least + requantisers.min(1)

    def takes(self, way: tuple[int, ...]) -> np.ndarray:
        """What a way takes."""
        k, which, *styles = way
        if not styles:
            return self._streams[k] + self.requantisers[which]
        logic, *memories = self._shares
        takes = np.zeros(len(RESOURCES))
        takes[LOGIC] = logic[:, k]
        for style, memory in zip(styles, memories, strict=True):
            takes[MEMORY] += memory[:, style * len(self._kept) + k]
        return takes + self.requantisers[which]

    def column(self, way: tuple[int, ...]) -> Column:
        """A way."""
        k, which, *styles = way
        tile = resident = pace = 0
        if styles:
            weights, window = (STYLES[style] for style in styles)
            k = self._kept[k]
            buffer = self._window[:, styles[1], k].tolist()
        else:
            count = self.styles - 1
            k, styles = divmod(k, count**3)
            first, second = styles // count**2, styles // count % count
            weights, window = ("", "ultra")[first], ("", "ultra")[second]
            buffer = [0.0, *self._ways.window[k, second].tolist()]
            tile, resident = int(self._ways.tile[k]), int(self._ways.resident[k])
            k = self._ways.folding[k]
            # As slow as it may be, so that the stream of weights is even.
            pace = self._interval // (self.windows * -(-self.op.cout // int(self._fields[3, k])))
        cl, tl, gl, pe, kind, found = (int(n) for n in self._fields[:, k])
        multiplier = (self.multiplier, "fabric")[kind]
        requantiser = (self.multiplier, "fabric")[which]
        folding = Folding(
            channel_lanes=cl, tap_lanes=tl, group_lanes=gl, pe=pe, multiplier=multiplier,
            requantiser_multiplier="" if requantiser == multiplier else requantiser,
            shared=self.shared(multiplier) if found < 0 else "activation",
            weight_style=weights, window_style=window, tile=tile, resident=resident,
            fold_cycles=pace, sparse=self._sparse[found].sparse if found >= 0 else None,
        )
        return Column(tuple(self.takes(way).tolist()), int(self._cycles[k]), folding,
                      (0.0, *buffer, 0.0))
