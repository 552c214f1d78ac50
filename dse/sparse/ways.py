"""Ways to pass over the zeros of a convolution: how many pairs are tested, and how many multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Any

import numpy as np

from hwgen.blocks.sparse_conv import even_streams
from hwgen.design import DesignPoint, Sparse
from hwgen.dse.design.streams import fold_choices
from hwgen.dse.sparse.layer import SparseLayer
from hwgen.dse.sparse.statistics import Statistics
from hwgen.ir import Graph
from hwgen.plan import plan

__all__ = ["SparseFolding", "as_measured", "sparse_ways"]

LARGEST = 96
"""Pairs that are tested in parallel, at most."""
MOST_CHOICES = 8
"""Numbers of channels in parallel that are tried."""
LOADS = (0.6, 0.8, 1.0, 1.25, 1.6)
"""Multipliers that are tried, as a share of those that the pairs of a cycle need on average."""
DENSE = 0.85
"""Density above which there is nothing to be gained."""
PRUNED = 0.95
"""Share of the weights that are not zero for all output channels computed together, below which
their zeros count."""
BEATS = 30000
"""Beats of a layer that its cycles are computed from; that many give them within a few per cent."""
LEAST = 64
"""Windows that the cycles are computed from, at least."""


@dataclass(frozen=True)
class SparseFolding:
    """A folding that passes over zeros.

    Members
    -------
    channel_lanes, tap_lanes, pe : see :class:`hwgen.blocks.sparse_conv.SparseConvConfig`
    sparse : which multiplier serves which pairs
    cycles : cycles of a fold, on average
    """

    channel_lanes: int
    tap_lanes: int
    pe: int
    sparse: Sparse
    cycles: float

    @property
    def multipliers(self) -> int:
        """Multipliers of an output channel."""
        return len(self.sparse.streams)


def sparse_ways(layer: SparseLayer, step: int, lanes_out: int) -> tuple[SparseFolding, ...]:
    """Ways to compute a convolution, with streams dealt out evenly.

    Parameters
    ----------
    layer : its statistics
    step : number of which the channels in parallel are a multiple
    lanes_out : number of which the output channels in parallel are a multiple
    """
    return layer.remember(
        ("ways", step, lanes_out), lambda: tuple(_ways(layer, step, lanes_out))
    )


def _ways(layer: SparseLayer, step: int, lanes_out: int) -> Iterator[SparseFolding]:
    op = layer.op
    cin, cout = op.weight.shape[-1], op.cout // op.groups
    channels, pes = _choices(cin, step), _choices(cout, lanes_out)
    taps = _choices(op.window.taps, 1)
    for pe in pes:
        density, skip = _density(layer, pe)
        if density > DENSE:
            continue
        for cl in channels:
            for tl in taps:
                count = cl * tl
                if not 2 <= count <= LARGEST:
                    continue
                # What depends on the output channels takes long to count.
                loads = LOADS if skip == "activation" else LOADS[1::2]
                needed = {ceil(count * density * load) for load in loads}
                for multipliers in sorted(n for n in needed if 1 <= n < count):
                    streams = even_streams(count, multipliers)
                    # Of activations all output channels pass over the same.
                    alike = pe if skip != "activation" else max(cout // 2, 1)
                    way = cl, tl, alike, streams, skip
                    cycles = layer.remember(("cycles", *way), partial(layer.cycles, *way))
                    yield SparseFolding(cl, tl, pe, Sparse(streams, skip), cycles)


def _choices(extent: int, step: int) -> list[int]:
    """A few numbers of lanes up to an extent: multiples of a step, the least for their folds."""
    lanes = fold_choices(extent, step).tolist()
    if len(lanes) <= MOST_CHOICES:
        return lanes
    wanted = np.geomspace(lanes[0], lanes[-1], MOST_CHOICES)
    return sorted({min(lanes, key=lambda n, w=w: abs(n - w)) for w in wanted})


def _density(layer: SparseLayer, pe: int) -> tuple[float, str]:
    """Find which zeros to pass over.

    Returns
    -------
    density, skip
        The share of the products that are computed, and the kind of zeros.
    """
    kept = float(layer.kept(pe).mean())
    if kept > PRUNED:
        return layer.mean_density, "activation"
    return layer.mean_density * kept, "both"


def as_measured(
    graph: Graph, design: DesignPoint, statistics: Statistics, balanced: bool = True,
    beats: int = BEATS,
) -> DesignPoint:
    """A design with the cycles that its sparse folds take, computed exactly.

    Parameters
    ----------
    graph, design : the network and its design
    statistics : of the network
    balanced : whether streams are dealt out anew, so that multipliers have as much to do as others
    beats : beats of each layer that times are computed from, about
    """
    foldings = dict(design.foldings)
    netlist = plan(graph, design)
    for name in netlist.sparse:
        folding, layer = foldings[name], statistics[name]
        config: Any = netlist.blocks[name]
        assert folding.sparse is not None
        streams = config.streams if not balanced else layer.balanced(
            config.channel_lanes, config.tap_lanes, config.multipliers, skip=config.skip,
            pe=config.pe,
        )
        config = replace(config, streams=streams)
        windows = beats // (len(config.fold_results) * config.window.steps)
        cycles = layer.exact_cycles(config, max(windows, LEAST))
        foldings[name] = replace(
            folding, sparse=replace(folding.sparse, streams=streams, cycles=cycles)
        )
    return replace(design, foldings=foldings)
