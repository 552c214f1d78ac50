"""Where to draw the nodes and edges of a directed acyclic graph: in ranks, top to bottom.

The method is that of Sugiyama, Tagawa and Toda ("Methods for visual understanding of hierarchical
system structures", 1981): a node's rank is its longest path from a source; an edge over several
ranks is cut at each, so that it has a place of its own between the nodes; the order within a rank
comes from sweeps over barycentres.  Positions are then the least squares that keep the order and
the distances, one rank at a time, which is an isotonic regression.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Box", "Drawing", "layered"]

SPACE = 14.0
"""Distance between neighbours in a rank."""
GAP = 12.0
"""Least height between ranks."""
SWEEPS = 12
"""Passes over all ranks, down and up in turn."""


@dataclass(frozen=True)
class Box:
    """A rectangle, given by its upper left corner, its width and its height."""

    x: float
    y: float
    width: float
    height: float

    @property
    def centre(self) -> float:
        """Its middle, from left to right."""
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        """Its lower edge."""
        return self.y + self.height


@dataclass(frozen=True)
class Drawing:
    """A graph laid out.

    Members
    -------
    width, height : extent; everything lies within
    boxes : node to its place
    paths : per edge, points from source to sink; between two points with the same x it is straight,
        else a curve that leaves and arrives vertically, and that lies between two ranks
    """

    width: float
    height: float
    boxes: dict[Hashable, Box]
    paths: list[list[tuple[float, float]]]


@dataclass(eq=False)
class _Item:
    """A node, or the place where an edge crosses a rank."""

    rank: int
    width: float
    height: float
    node: bool
    up: list[_Item] = field(default_factory=list)
    down: list[_Item] = field(default_factory=list)
    place: int = 0
    x: float = 0.0

    @property
    def stiffness(self) -> int:
        """How much a link at this end wants to be vertical."""
        return 1 if self.node else 3

    def barycentre(self, downward: bool) -> float:
        """Mean place of the neighbours in the rank above, or below; its own if there are none."""
        near = self.up if downward else self.down
        return sum(item.place for item in near) / len(near) if near else self.place


def layered(
    sizes: Mapping[Hashable, tuple[float, float]], edges: Sequence[tuple[Hashable, Hashable]]
) -> Drawing:
    """Lay out a graph.

    Parameters
    ----------
    sizes : node to its width and height, in topological order
    edges : (source, sink) of each edge

    Returns
    -------
    :class:`Drawing`
        All places, in the units of the sizes.
    """
    ranks: dict[Hashable, int] = dict.fromkeys(sizes, 0)
    leaving: dict[Hashable, list[Hashable]] = {name: [] for name in sizes}
    for source, sink in edges:
        leaving[source].append(sink)
    for name in sizes:
        for sink in leaving[name]:
            ranks[sink] = max(ranks[sink], ranks[name] + 1)
    items = {name: _Item(ranks[name], *size, node=True) for name, size in sizes.items()}
    rows: list[list[_Item]] = [[] for _ in range(max(ranks.values(), default=-1) + 1)]
    for item in items.values():
        rows[item.rank].append(item)
    chains = []
    for source, sink in edges:
        chain = [items[source]]
        for rank in range(ranks[source] + 1, ranks[sink]):
            chain.append(_Item(rank, 0.0, 0.0, node=False))
            rows[rank].append(chain[-1])
        chain.append(items[sink])
        for above, below in zip(chain, chain[1:]):
            above.down.append(below)
            below.up.append(above)
        chains.append(chain)
    _order(rows)
    _position(rows)
    return _drawn(rows, items, chains)


def _order(rows: list[list[_Item]]) -> None:
    """Order each rank so that few edges cross: sweeps down and up, of which the best is kept."""
    _number(rows)
    best, kept = _crossings(rows), [list(row) for row in rows]
    for sweep in range(SWEEPS):
        if not best:
            break
        downward = sweep % 2 == 0
        for row in rows if downward else reversed(rows):
            row.sort(key=lambda item, downward=downward: item.barycentre(downward))
            _number([row])
        if (now := _crossings(rows)) < best:
            best, kept = now, [list(row) for row in rows]
    rows[:] = kept
    _number(rows)


def _number(rows: list[list[_Item]]) -> None:
    """Tell all items their places."""
    for row in rows:
        for place, item in enumerate(row):
            item.place = place


def _crossings(rows: list[list[_Item]]) -> int:
    """Pairs of edges that cross."""
    total = 0
    for row in rows[:-1]:
        ends = [below.place for above in row
                for below in sorted(above.down, key=lambda item: item.place)]
        total += sum(a > b for k, b in enumerate(ends) for a in ends[:k])
    return total


def _position(rows: list[list[_Item]]) -> None:
    """Choose the x of every item's middle: near its neighbours, and apart from those beside it."""
    for row in rows:
        _spread(row, [0.0] * len(row), [1.0] * len(row))
    for sweep in range(2 * SWEEPS):
        downward = sweep % 2 == 0
        for row in rows if downward else reversed(rows):
            wanted, weights = [], []
            for item in row:
                # Neighbours on both sides count, but more those that were placed just now.
                pulls = [(n.x, item.stiffness * n.stiffness * (4 if near else 1))
                         for near, side in ((downward, item.up), (not downward, item.down))
                         for n in side]
                weight = sum(w for _, w in pulls)
                wanted.append(sum(x * w for x, w in pulls) / weight if weight else item.x)
                weights.append(weight or 1e-3)
            _spread(row, wanted, weights)
    # Make chains straight: projections, in turn, to what is straight and to what keeps apart.
    chains = _chains(rows)
    for _ in range(2 * SWEEPS):
        straight = {}
        for chain in chains:
            middle = sum(item.x for item in chain) / len(chain)
            straight.update(dict.fromkeys(chain, (middle, float(len(chain)))))
        for row in rows:
            _spread(row, [straight[item][0] for item in row], [straight[item][1] for item in row])


def _chains(rows: list[list[_Item]]) -> list[list[_Item]]:
    """All items, in chains of which each is the only neighbour of the one before."""
    chains: dict[_Item, list[_Item]] = {}
    for row in rows:
        for item in row:
            above = item.up[0] if len(item.up) == 1 else None
            if above and len(above.down) == 1:
                chains[item] = chains[above]
                chains[item].append(item)
            else:
                chains[item] = [item]
    return [chain for item, chain in chains.items() if chain[0] is item]


def _spread(row: list[_Item], wanted: list[float], weights: list[float]) -> None:
    """Least squares that keep the distances: pools of adjacent violators."""
    offsets, edge = [], 0.0
    for item in row:
        offsets.append(edge + item.width / 2)
        edge += item.width + SPACE
    pools: list[list[float]] = []  # sum of weighted targets, sum of weights, items
    for target, weight, offset in zip(wanted, weights, offsets):
        pools.append([(target - offset) * weight, weight, 1])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last)]
    starts = [total / weight for total, weight, count in pools for _ in range(int(count))]
    for item, start, offset in zip(row, starts, offsets):
        item.x = start + offset


def _drawn(
    rows: list[list[_Item]], items: dict[Hashable, _Item], chains: list[list[_Item]]
) -> Drawing:
    """Add heights, and shift everything to begin at 0."""
    every = [item for row in rows for item in row]
    left = min((item.x - item.width / 2 for item in every), default=0.0)
    right = max((item.x + item.width / 2 for item in every), default=0.0)
    tops, y = [], 0.0
    for row in rows:
        # A wide step sideways needs some height, or its curve is flat.
        step = max((abs(item.x - n.x) for item in row for n in item.up), default=0.0)
        y += (GAP + min(step / 12, 2 * GAP)) if tops else 0.0
        tops.append(y)
        y += max(item.height for item in row)
    heights = [max(item.height for item in row) for row in rows]
    boxes = {}
    for name, item in items.items():
        top = tops[item.rank] + (heights[item.rank] - item.height) / 2
        boxes[name] = Box(item.x - item.width / 2 - left, top, item.width, item.height)
    for item in every:
        # By position, so that the edges at a node do not cross each other.
        item.up.sort(key=lambda n: n.x)
        item.down.sort(key=lambda n: n.x)
    used: dict[tuple[int, bool], dict[int, int]] = {}

    def port(item: _Item, below: bool, other: _Item) -> float:
        """Where an edge touches a node: its edges share the width."""
        if not item.node:
            return item.x - left
        side = item.down if below else item.up
        first = side.index(other)
        seen = used.setdefault((id(item), below), {})
        k = first + seen.setdefault(id(other), 0)
        seen[id(other)] += 1
        return item.x - left + item.width * ((k + 1) / (len(side) + 1) - 0.5)

    paths = []
    for chain in chains:
        points = []
        for above, below in zip(chain, chain[1:]):
            start, end = port(above, True, below), port(below, False, above)
            bottom = tops[above.rank] + heights[above.rank]
            if above.node:
                box_bottom = tops[above.rank] + (heights[above.rank] + above.height) / 2
                points.append((start, box_bottom))
            points += [(start, bottom), (end, tops[below.rank])]
            if below.node:
                points.append((end, tops[below.rank] + (heights[below.rank] - below.height) / 2))
        paths.append(_joined(points))
    return Drawing(right - left, y, boxes, paths)


def _joined(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same line with no point in the middle of a straight piece."""
    kept = points[:1]
    for point, after in zip(points[1:], [*points[2:], None]):
        if point == kept[-1] or (after and kept[-1][0] == point[0] == after[0]):
            continue
        kept.append(point)
    return kept
