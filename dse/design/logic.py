"""LUTs and flip-flops of convolutions, for many foldings at once.

The features are those that the parts themselves name (:func:`hwgen.device.cost.logic`), as arrays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hwgen.device.arithmetic import signed_width
from hwgen.device.cost import estimate
from hwgen.device.multiplier import MULTIPLIERS, Packing
from hwgen.dse.design.amounts import Amounts
from hwgen.dse.design.workload import Workload

__all__ = ["Datapath", "datapath_logic", "requantisers"]

Features = tuple[str, dict]
"""A kind of part, and its features."""


@dataclass(frozen=True, eq=False)
class Datapath:
    """What decides the logic of foldings; arrays with one entry a folding.

    Members
    -------
    simd, columns : products that are summed up, and multipliers for each of them
    chain : products that are summed up before the fields of a multiplier are parted
    results : sums that are made at once
    beats : beats that the results of a fold leave in
    taps, copies, word_bits : taps in parallel, and copies and bits of a word of the window's buffer
    """

    simd: np.ndarray
    columns: np.ndarray
    chain: np.ndarray
    results: np.ndarray
    beats: np.ndarray
    taps: np.ndarray
    copies: np.ndarray
    word_bits: np.ndarray


def datapath_logic(
    work: Workload, packing: Packing, path: Datapath
) -> tuple[np.ndarray, np.ndarray]:
    """Flip-flops and LUTs that grow with the folding.

    Parameters
    ----------
    work : the convolution
    packing : how products share a multiplier
    path : the foldings

    Returns
    -------
    ff, lut
        Arrays with one entry a folding.
    """
    acc, window = work.accumulator_bits, work.op.window
    chains = -(-path.simd // path.chain)
    extra = path.results - path.columns
    field = packing.field if packing.products > 1 else signed_width(
        -packing.bound(1), packing.bound(1)) + 3
    choices = np.maximum(-(-window.taps // path.taps) - 1, 0)
    address = np.log2(np.maximum(work.bank_sites * 4, 2))
    filled = path.taps * work.pixels_out * path.word_bits
    kinds: list[Features] = [
        ("column", {
            "sum": path.results * (chains - 1) * (field + 3), "acc": path.results * acc,
            "one": path.results, "carry": extra * chains,
            "lowest": extra * path.simd * packing.guard,
            "field": extra * chains * packing.guard,
        }),
        ("convolution", {
            "lut_held": path.results * acc * (path.beats > 1), "ff_register": path.results * acc,
        }),
        ("tap", {
            "ff_register": path.copies * (3 * address + 1 + path.word_bits),
            "lut_address": path.copies * address,
            "lut_one": path.copies, "lut_offset": path.copies * choices * address,
            "lut_fill": filled * (window.taps > 1), "lut_banks": filled * (work.banks > 1),
        }),
    ]
    if not packing.device.sum_bits:
        wide, narrow = packing.word_bits, packing.activation_bits
        if not packing.device.dsp:
            wide, narrow = work.op.weight_bits, work.tensor.bits
        count = path.columns * path.simd
        kinds += _product(packing.multiplier, wide, narrow, count)
        kinds.append(("tree", {
            "operand": count * (wide + narrow),
            "sum": path.columns * (path.simd - chains) * (wide + narrow + 1),
        }))
    return _estimates(kinds, work.family)


def requantisers(work: Workload) -> np.ndarray:
    """Amounts that the requantisers take, shape ``(2, resources)``: one row for each of
    :attr:`Workload.multipliers`."""
    bits = work.accumulator_bits, work.op.requantise.multiplier_bits + 1
    wide, narrow = max(bits), min(bits)
    kept = wide + narrow - 1 - int(work.op.requantise.shift.min())
    rounding: Features = ("round", {
        "lut_one": 1, "lut_kept": kept, "lut_by_1": 2.5 * kept,
        "lut_output": 1.5 * work.op.output.bits, "lut_zero": kept,
        "ff_register": wide + narrow + 3 * kept + work.op.output.bits + 3,
    })
    rows = []
    for multiplier in work.multipliers:
        dsp = MULTIPLIERS[multiplier].dsps(wide, narrow) if multiplier != "fabric" else 0
        ff, lut = _estimates([rounding, *_product(multiplier, wide, narrow, 1)], work.family)
        rows.append(Amounts(dsp=dsp, ff=ff, lut=lut))
    return work.lanes_out * work.pixels_out * np.array(rows)


def _product(
    multiplier: str, wide: int, narrow: int, count: np.ndarray | int
) -> list[Features]:
    """The parts of some products of so many bits each."""
    if MULTIPLIERS[multiplier].dsp:
        return [("product", {"ff_register": count * (wide + narrow)})]
    rows = -(-narrow // 2)
    tree = sum((rows >> k) * (wide + (2 << k)) for k in range(1, rows.bit_length()))
    return [("fabric", {"double": count * rows * (wide + 2), "tree": count * tree, "one": count})]


def _estimates(kinds: Iterable[Features], family: str) -> tuple:
    """Flip-flops and LUTs of some parts together."""
    kinds = list(kinds)
    ff, lut = (sum(estimate(kind, what, family, **features) for kind, features in kinds)
               for what in ("ff", "lut"))
    return ff, lut
