"""All foldings of a convolution at once: their cycles, and what they take.

Numbers are those of ``resources()`` of the blocks, for thousands of foldings at once: multipliers
exactly, memories but for how weights are dealt out to ports, LUTs nearly.  What they miss of a
whole design is found when it is planned (:mod:`hwgen.dse.design.learned`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, TypeVar

import numpy as np

from hwgen.blocks.sparse_conv import usual_queue
from hwgen.device.cost import estimate
from hwgen.device.multiplier import Packing
from hwgen.device.storage import (
    STYLES,
    TABLE_DEPTH,
    ULTRA_DEPTH,
    block_count,
    choice_luts,
    ram_luts,
    rom_luts,
    table_count,
    ultra_count,
    ultra_weights,
)
from hwgen.dse.design.amounts import BRAM18, FF, LUT, MEMORY, RESOURCES, URAM
from hwgen.dse.design.logic import Datapath, datapath_logic
from hwgen.dse.design.streaming import Shapes, memory_takes
from hwgen.dse.design.streams import fold_choices
from hwgen.dse.design.workload import Workload
from hwgen.dse.sparse.layer import SparseLayer
from hwgen.dse.sparse.ways import SparseFolding, sparse_ways
from hwgen.ir import Conv
from hwgen.parts.mac import chain_length
from hwgen.parts.sparse_mac import centred_bits
from hwgen.parts.weights import LOAD_BITS

__all__ = ["DENSE", "Foldings", "dense_foldings", "sparse_foldings", "sparse_ways_of"]

DENSE = -1
"""The sparse way of a folding that passes over no zeros."""

DEEPEST_LUTS = 512
"""Words of the deepest memory in LUTs: the choice among more would be slow."""

NONE = 1e9
"""LUTs of what cannot be built."""

DISTRIBUTED, BLOCK, ULTRA = range(len(STYLES))
"""Rows of arrays that have one for each of :data:`hwgen.device.storage.STYLES`."""

Arrays = TypeVar("Arrays")


class Parallel(NamedTuple):
    """What foldings do in parallel; arrays with one entry a folding."""

    channel_lanes: np.ndarray
    tap_lanes: np.ndarray
    pe: np.ndarray
    group_lanes: np.ndarray

    def take(self, keep: np.ndarray) -> Parallel:
        """Some of the foldings."""
        return Parallel(*(row[keep] for row in self))


@dataclass(frozen=True, eq=False)
class Foldings:
    """Foldings of a convolution; arrays whose last axis is that of the foldings.

    Members
    -------
    cycles : a frame
    logic : amounts of DSPs, flip-flops and LUTs, without requantisers, shape ``(3, foldings)``
    weights, window : amounts of the memories of weights and of the window's buffer, shape
        ``(4, styles, foldings)``: columns :data:`hwgen.dse.design.amounts.MEMORY` for each of
        :data:`hwgen.device.storage.STYLES`
    channel_lanes, tap_lanes, group_lanes, pe : what is done in parallel
    multiplier : index in :attr:`Workload.multipliers`
    sparse : index among the sparse ways, or :data:`DENSE`
    shapes : what matters where weights are in off-chip memory
    """

    cycles: np.ndarray
    logic: np.ndarray
    weights: np.ndarray
    window: np.ndarray
    channel_lanes: np.ndarray
    tap_lanes: np.ndarray
    group_lanes: np.ndarray
    pe: np.ndarray
    multiplier: np.ndarray
    sparse: np.ndarray
    shapes: Shapes

    @classmethod
    def joined(cls, parts: Sequence[Foldings]) -> Foldings:
        """All foldings of several."""
        return _joined(parts)


def _joined(parts: Sequence[Arrays]) -> Arrays:
    """Arrays behind each other, or what has them as fields."""
    first = parts[0]
    if isinstance(first, np.ndarray):
        return np.concatenate(parts, axis=-1)
    return type(first)(**{
        f.name: _joined([getattr(part, f.name) for part in parts]) for f in fields(first)
    })


# Foldings that compute everything

def dense_foldings(work: Workload) -> list[Foldings]:
    """All foldings of a convolution, by multiplier and products that share one."""
    every = _parallel(work)
    parts = []
    for kind, multiplier in enumerate(dict.fromkeys(work.multipliers)):
        densest = work.packing(multiplier)
        outputs = every.pe
        if work.shared(multiplier) == "weight":
            outputs = np.full_like(every.pe, work.pixels_out)
        for products in range(1, densest.products + 1):
            # With fewer outputs than products, fewer are packed, which makes longer chains.
            same = (outputs == products if products < densest.products
                    else outputs >= products)
            if same.any():
                packing = replace(densest, products=products)
                parts.append(_dense_part(work, kind, packing, every.take(same)))
    return parts


def _parallel(work: Workload) -> Parallel:
    """What can be done in parallel, with each other."""
    op, cin, cout = work.op, work.cin, work.cout
    choices = []
    if cout % work.lanes_out == 0:
        step = math.gcd(work.lanes_in, cin)
        choices.append((fold_choices(cin, step), fold_choices(cout, work.lanes_out), [1]))
    if op.groups > 1:
        groups = fold_choices(op.groups)[1:]
        rest = op.groups % groups
        whole = ((groups * cout % work.lanes_out == 0) & (rest * cout % work.lanes_out == 0)
                 & (groups * cin % work.lanes_in == 0))
        choices.append(([cin], [cout], groups[whole]))
    taps = fold_choices(op.window.taps)
    return Parallel(*np.concatenate([
        np.stack(np.meshgrid(channels, taps, pes, groups, indexing="ij")).reshape(4, -1)
        for channels, pes, groups in choices
    ], axis=1))


def _dense_part(work: Workload, kind: int, packing: Packing, parallel: Parallel) -> Foldings:
    """Foldings whose multipliers all have the same number of products."""
    op, cin, cout = work.op, work.cin, work.cout
    channel_lanes, tap_lanes, pe, group_lanes = parallel
    steps = -(-op.window.taps // tap_lanes) * -(-cin // channel_lanes)
    folds = -(-op.groups // group_lanes) * -(-cout // pe)
    beats = pe * group_lanes // work.lanes_out
    cycles = work.windows * folds * np.maximum(steps, beats)
    # The window takes as many lanes as its words are made of.
    taken = np.gcd(np.gcd(work.lanes_in, group_lanes * channel_lanes),
                   np.where(group_lanes > 1, op.groups * cin, cin))
    cycles = np.maximum(cycles, work.tensor.size // (taken * work.pixels_in))
    bits = group_lanes * channel_lanes * work.tensor.bits
    segments = np.where(group_lanes > 1, 1, op.groups)
    words = segments * -(-(work.tensor.channels // segments) // (group_lanes * channel_lanes))
    copies = tap_lanes * work.banks
    phases, simd = math.prod(op.repeat), channel_lanes * tap_lanes
    if work.shared(packing.multiplier) == "weight":
        columns = group_lanes * pe * -(-work.pixels_out // packing.products)
        word = packing.activation_bits
    else:
        columns = work.pixels_out * group_lanes * -(-pe // packing.products)
        word = packing.word_bits
    row, chain = group_lanes * pe * simd * word, chain_length(packing, simd)
    ff, lut = datapath_logic(work, packing, Datapath(
        simd=simd, columns=columns, chain=chain, results=group_lanes * pe * work.pixels_out,
        beats=beats, taps=tap_lanes, copies=copies, word_bits=bits,
    ))
    return Foldings(
        cycles=cycles,
        logic=np.stack([packing.device.dsp * simd * columns, ff, lut]),
        weights=_weights(row, phases * folds * steps, chain if packing.device.sum_bits
                         else np.ones_like(chain), work.family)[MEMORY],
        window=_buffer(bits, work.bank_sites * words, copies, work.family)[MEMORY],
        channel_lanes=channel_lanes, tap_lanes=tap_lanes, group_lanes=group_lanes, pe=pe,
        multiplier=np.full_like(pe, kind), sparse=np.full_like(pe, DENSE),
        shapes=Shapes(
            steps=steps * phases, folds=folds, cycles=np.maximum(steps, beats), row_bits=row,
            word_bits=bits, words=words, copies=copies,
        ),
    )


# Foldings that pass over zeros

def sparse_ways_of(work: Workload, layer: SparseLayer) -> tuple[SparseFolding, ...]:
    """The ways to pass over the zeros of a convolution; none, where no block can."""
    one = work.pixels_in == work.pixels_out == 1
    if (not one or not isinstance(work.op, Conv) or work.tensor.bits > 8
            or work.cout % work.lanes_out):
        return ()
    return sparse_ways(layer, math.gcd(work.lanes_in, work.cin), work.lanes_out)


def sparse_foldings(work: Workload, ways: Sequence[SparseFolding]) -> Foldings:
    """The foldings of some ways to pass over zeros."""
    op, cin, cout = work.op, work.cin, work.cout
    channel_lanes, tap_lanes, pe, multipliers = (
        np.array([getattr(way, name) for way in ways])
        for name in ("channel_lanes", "tap_lanes", "pe", "multipliers"))
    mean = np.array([way.cycles for way in ways])
    steps = -(-op.window.taps // tap_lanes) * -(-cin // channel_lanes)
    folds, beats = op.groups * -(-cout // pe), pe // work.lanes_out
    cycles = np.ceil(work.windows * folds * np.maximum(mean, np.maximum(steps, beats)))
    taken = np.gcd(np.gcd(work.lanes_in, channel_lanes), cin)
    cycles = np.maximum(cycles.astype(np.int64), work.tensor.size // taken)
    bits = centred_bits(work.tensor.bits, work.tensor.zero_point)
    packing = Packing.densest(work.multiplier, bits, op.weight_bits, op.weight_limit)
    columns, streams = -(-pe // packing.products), channel_lanes * tap_lanes
    each, depth = -(-streams // multipliers), folds * steps
    weights = multipliers * _weights(pe * packing.word_bits, each * depth,
                                     np.ones_like(multipliers), work.family)
    words, word = op.groups * -(-cin // channel_lanes), channel_lanes * work.tensor.bits
    ff, lut = datapath_logic(work, packing, Datapath(
        simd=multipliers, columns=columns, chain=chain_length(packing, multipliers), results=pe,
        beats=beats, taps=tap_lanes, copies=tap_lanes, word_bits=word,
    ))
    address = np.ceil(np.log2(np.maximum(each * depth, 2)))
    entry = (each * (work.tensor.bits + 1) + address + 1).astype(int)
    queue = memory_takes(entry, usual_queue(steps), 1, False, work.family)[:, 0]
    weights[BRAM18] += (multipliers * queue[:, BRAM18]).astype(int)
    ff = ff + multipliers * (5 * entry + address) + streams * (bits + 1)
    lut = lut + multipliers * (
        queue[:, LUT] + each * (work.tensor.bits / 2 + 8) + 2 * address + work.tensor.bits + 30
    ) + 4 * streams
    return Foldings(
        cycles=cycles,
        logic=np.stack([packing.device.dsp * multipliers * columns, ff, lut]),
        weights=weights[MEMORY],
        window=_buffer(word, work.bank_sites * words, tap_lanes, work.family)[MEMORY],
        channel_lanes=channel_lanes, tap_lanes=tap_lanes, group_lanes=np.ones_like(pe), pe=pe,
        multiplier=np.zeros_like(pe), sparse=np.arange(len(pe)),
        # Without folds, their weights are not streamed.
        shapes=Shapes(
            steps=steps, folds=np.zeros_like(pe), cycles=steps, row_bits=pe, word_bits=word,
            words=words, copies=tap_lanes,
        ),
    )


# Memories

def _styles(
    luts: Sequence, blocks: np.ndarray, ultras: np.ndarray, registers: Sequence = ()
) -> np.ndarray:
    """Amounts of a memory in each style, shape ``(resources, styles, foldings)``.

    Parameters
    ----------
    luts : of each style, LUTs
    blocks, ultras : block memories and UltraRAMs, where it is made of them
    registers : of each style, flip-flops
    """
    takes = np.zeros((len(RESOURCES), len(STYLES), len(blocks)))
    takes[LUT] = luts
    for style, count in enumerate(registers):
        takes[FF, style] = count
    takes[BRAM18, BLOCK], takes[URAM, ULTRA] = blocks, ultras
    return takes


def _buffer(width: np.ndarray, depth: np.ndarray, copies: np.ndarray, family: str) -> np.ndarray:
    """Amounts of the copies of a window's buffer, see :func:`_styles`."""
    zero = np.zeros(len(width))
    luts = np.where(depth <= DEEPEST_LUTS, copies * ram_luts(width, depth, family), NONE)
    return _styles((luts, zero, zero), copies * block_count(width, depth),
                   copies * ultra_count(width, depth))


def _weights(width: np.ndarray, depth: np.ndarray, chain: np.ndarray, family: str) -> np.ndarray:
    """Amounts of the memories of weights, see :func:`_styles`.

    There is one for each pair of products in a chain, the last perhaps for one.
    """
    pairs = np.maximum(chain // 2, 1)
    each = np.where(chain > 1, -(-2 * width // chain), width)
    rest = np.maximum(width - pairs * each, 0)
    more = np.flatnonzero(rest)
    ports = pairs + (rest > 0)
    blocks = -(-depth // TABLE_DEPTH)

    def both(count) -> np.ndarray:
        total = pairs * count(each, depth)
        total[more] += count(rest[more], depth[more])
        return total

    return _styles(
        (np.where(depth <= DEEPEST_LUTS, rom_luts(width, depth, family), NONE),
         choice_luts(width, blocks, family),
         choice_luts(width, -(-depth // ULTRA_DEPTH), family) + 60 * ports + width // LOAD_BITS),
        both(table_count), both(ultra_weights),
        (estimate("weights", "ff", family, ff_words=width),
         # Each of several blocks one after the other has a register.
         width * np.where(blocks > 1, blocks + _choices(blocks), 0),
         width * _choices(-(-depth // ULTRA_DEPTH))),
    )


def _choices(parts: np.ndarray) -> np.ndarray:
    """Number of registers of a choice among parts, four at a time."""
    parts, registers = parts.copy(), np.zeros_like(parts)
    while (parts > 1).any():
        more = parts > 1
        parts = np.where(more, -(-parts // 4), parts)
        registers += np.where(more, parts, 0)
    return registers
