"""No decomposition, SVD or CPD for every layer, by evolution on learned models: Mixed-TD's search.

After Yu and Bouganis, "Mixed-TD: Efficient Neural Network Accelerator with Layer-Specific Tensor
Decomposition", 2023: every layer stays, or becomes an SVD scheme or a CPD, with a rank that is rich
in factors, because that can be folded in many ways.  Evolution chooses, and asks a predictor of
throughput that was learned from designs, because it would take too long to design hardware for
every candidate.  Here two predictors, of throughput and of accuracy, learn all the time.  They are
fitted to what was judged; evolution finds the choices that none beats by their word; the few of
these that promise most are tuned, designed and judged; and the predictors are fitted again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from hwgen.dse.low_rank.problem import Problem, weight_error
from hwgen.dse.low_rank.ranks import measured
from hwgen.dse.low_rank.ways import LayerChoice, ways
from hwgen.dse.tradeoff.front import Front, Point
from hwgen.dse.tradeoff.judge import Judge
from hwgen.errors import HwgenError
from hwgen.models.compression.budget import Option, choose_options
from hwgen.models.compression.decomposition import Decomposition, stages
from hwgen.models.compression.layers import FloatLayer

__all__ = ["Loss", "Space", "Work", "evolve", "stage_work"]

STARTS = 0.5, 0.3, 0.7, 0.2, 0.4
"""Shares of the products that are left in what is judged first."""
PRIOR = 0.05
"""How much the squared distance to a guess counts in a fit, against squared relative errors."""
POWERS = 1.0, 1.5, 2.0, 3.0
"""Powers of the outputs' error with which accuracy may be lost."""

Genome = tuple[int, ...]
"""Which of its ways each layer takes."""


def evolve(
    judge: Judge[Problem], offered: Mapping[str, Sequence[LayerChoice]] | None = None, *,
    trials: int = 64, population: int = 64, generations: int = 20, batch: int = 4,
    loss: float = 0.02, sensitivity: Mapping[str, float] | None = None, seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Front:
    """Choices that trade accuracy for frames a DSP, with their hardware.

    Parameters
    ----------
    judge : judges choices; what its file knows is not judged again, so that a search which was
        interrupted goes on when it is called again with the same arguments
    offered : what layers may become; default all :func:`hwgen.dse.low_rank.ways.ways`.  A layer
        may always stay, and what would make it larger is left out.
    trials : choices that are judged beside the network as it is, with those that the file knows
    population, generations : size and length of each evolution, which asks only the models
    batch : choices that are judged before the models learn again
    loss : loss of accuracy up to which choices are of interest
    sensitivity : how much a layer's relative squared error counts at first; default
        :func:`hwgen.dse.low_rank.ranks.measured`
    seed : same seed, same search
    progress : called with what was judged

    Raises
    ------
    :exc:`HwgenError`
        If a number is out of range, no layer can become smaller, or no choice can be built.
    """
    for name, value, least in (("Trials", trials, 1), ("Population", population, 4),
                               ("Generations", generations, 1), ("Batch", batch, 1),
                               ("Seed", seed, 0)):
        if type(value) is not int or value < least:
            raise HwgenError(f"{name} must be an integer of {least} or more, not {value!r}")
    if not 0 < loss < math.inf:
        raise HwgenError(f"Loss must be above 0, not {loss!r}")
    space = Space.of(judge, offered, sensitivity, progress)
    known: dict[Genome, Point | None] = {space.whole: judge.reference}
    people = space.starts(max(min(trials // 3, 2 * len(STARTS)), 1), np.random.default_rng(seed))
    wanted = [tuple(row) for row in people.tolist()]
    most = min(trials, space.size - 1) + 1
    error = ""
    while True:
        for genome in wanted[: most - len(known)]:
            known[genome], said = _judged(judge, space, genome)
            error = said if known[genome] is None else error
            progress(f"{len(known) - 1} of {most - 1}: {said}")
        if len(known) >= most:
            break
        # Each round draws on its own: it depends on what is known, and on nothing else.
        random = np.random.default_rng([seed, len(known)])
        models = _Models(space, judge, known, loss)
        people = _evolution(space, models, people, population, generations, random)
        wanted = _promising(space, models, people, known, batch, random)
    if all(point is None for genome, point in known.items() if genome != space.whole):
        raise HwgenError(f"No choice can be built: {error}")
    return judge.front({"search": "evolution", "trials": trials, "population": population,
                        "generations": generations, "batch": batch, "loss": loss, "seed": seed})


def _judged(judge: Judge[Problem], space: Space, genome: Genome) -> tuple[Point | None, str]:
    """Judge a choice.

    Returns
    -------
    point, said
        What to say about it in a line.  Without a point, it cannot be built.
    """
    choice = space.choice(genome)
    name = f"failed {judge.problem.key(choice)}"
    if name not in judge.journal.entries:
        try:
            point = judge(choice)
        except HwgenError as error:
            judge.journal.note(name, str(error))
        else:
            return point, (f"accuracy {point.accuracy:.4f}, {point.interval:,} cycles, "
                           f"{point.dsp} DSPs")
    return None, judge.journal.entries[name]


# What is chosen from

@dataclass(frozen=True, eq=False)
class Space:
    """What layers may become, and what the models predict from.

    Members
    -------
    ways : the ways of each layer, the cheapest first; last, the layer itself
    work : for each layer the work of its ways, see :func:`stage_work`, shape ``(ways, 4)``
    lost : for each layer how much its ways change the outputs, by its sensitivity, shape
        ``(ways,)``
    fixed : work of the layers that have no choice, shape ``(4,)``
    """

    ways: Mapping[str, Sequence[LayerChoice]]
    work: Sequence[np.ndarray]
    lost: Sequence[np.ndarray]
    fixed: np.ndarray

    @classmethod
    def of(
        cls, judge: Judge[Problem], offered: Mapping[str, Sequence[LayerChoice]] | None = None,
        sensitivity: Mapping[str, float] | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Space:
        """The space of a judge's network; see :func:`evolve`."""
        layers = judge.problem.layers
        if offered is None:
            offered = {name: ways(layer) for name, layer in layers.items()}
        if unknown := [name for name in offered if name not in layers]:
            raise HwgenError(f"Layer {unknown[0]!r} is unknown, or cannot be decomposed")
        found = {}
        for name, some in offered.items():
            whole = LayerChoice.of(layers[name])
            smaller = {way.decomposition: way for way in some
                       if way.decomposition is not None and way.cost.below(whole.cost)}
            if smaller:
                found[name] = [
                    *sorted(smaller.values(), key=lambda way: (way.cost.macs, repr(way))), whole]
        if not found:
            raise HwgenError("No layer can become smaller in the ways that are offered")
        if sensitivity is None:
            progress("sensitivities")
            sensitivity = measured(judge, found)
        lost = []
        for name, some in found.items():
            progress(f"errors of {name}")
            lost.append(sensitivity[name] * np.array(
                [weight_error(judge, layers[name], way.decomposition) for way in some]))
        return cls(
            found, [np.array([stage_work(layers[name], way.decomposition) for way in some])
                    for name, some in found.items()],
            lost, np.sum([stage_work(layer) for name, layer in layers.items()
                          if name not in found] or [np.zeros(4)], axis=0))

    @property
    def whole(self) -> Genome:
        """All layers as they are."""
        return tuple(len(some) - 1 for some in self.ways.values())

    @property
    def size(self) -> int:
        """Number of choices."""
        return math.prod(map(len, self.ways.values()))

    def choice(self, genome: Genome) -> dict[str, Decomposition]:
        """The choice that a genome stands for."""
        found = {}
        for (name, some), at in zip(self.ways.items(), genome, strict=True):
            if (decomposition := some[at].decomposition) is not None:
                found[name] = decomposition
        return found

    def work_of(self, people: np.ndarray) -> np.ndarray:
        """Work of the whole network, shape ``(genomes, 4)``."""
        return self.fixed + sum(table[people[:, k]] for k, table in enumerate(self.work))

    def lost_of(self, people: np.ndarray) -> np.ndarray:
        """How much each layer changes the outputs, shape ``(genomes, layers)``."""
        return np.stack([table[people[:, k]] for k, table in enumerate(self.lost)], 1)

    def starts(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Genomes to begin with, none of them the network as it is.

        The first are those that lose least with some shares of the products, if the sensitivities
        are right; others are drawn at random around these.
        """
        options = {
            name: [Option(way.decomposition, way.cost.macs, error)
                   for way, error in zip(some, lost.tolist(), strict=True)]
            for (name, some), lost in zip(self.ways.items(), self.lost, strict=True)}
        least = sum(min(option.cost for option in some) for some in options.values())
        whole = sum(some[-1].cost for some in options.values())
        rows: list[Genome] = []
        for part in STARTS:
            chosen = choose_options(options, max(int(part * whole), least))
            rows.append(tuple(
                [option.decomposition for option in some].index(chosen.get(name))
                for name, some in options.items()))
        sizes = np.array([len(some) for some in self.ways.values()])
        for k in range(100 * count):
            other = random.random(len(sizes)) < 0.3
            rows.append(tuple(np.where(
                other, random.integers(0, sizes), rows[k % len(STARTS)]).tolist()))
        unequal = [row for row in dict.fromkeys(rows) if row != self.whole]
        return np.array(unequal[:count])


def stage_work(layer: FloatLayer, decomposition: Decomposition | None = None) -> np.ndarray:
    """What hardware has to do for a layer, each frame.

    Returns
    -------
    work
        Shape ``(4,)``: products in layers without groups, products in layers with groups, values
        that are made, layers in a row.
    """
    if decomposition is None:
        size = math.prod(layer.outputs)
        return np.array([math.prod(layer.shape) * size, 0, layer.shape[0] * size, 1], float)
    work = np.zeros(4)
    for stage, pixels in stages(layer, decomposition):
        work[int(stage.groups > 1)] += math.prod(stage.shape) * pixels
        work[2:] += stage.shape[0] * pixels, 1
    return work


# Models that are learned

class Work:
    """Predicts cycles times DSPs from what there is to do.

    It learns what a product costs, a product in a layer with groups, a value and a layer: 0 or
    more, with the least relative error.  The guess is that a DSP makes two products a cycle, or
    one in a layer with groups.  These are so few numbers that a handful of designs teaches them.

    Parameters
    ----------
    work : work of the points, shape ``(points, 4)``; the first is the network as it is
    cost : cycles times DSPs of the points, shape ``(points,)``

    Members
    -------
    price : cycles times DSPs of a unit of each kind of work, shape ``(4,)``
    """

    def __init__(self, work: np.ndarray, cost: np.ndarray) -> None:
        guess = np.array([0.5, 1.0, 0.0, 0.0])
        guess *= cost[0] / max(work[0] @ guess, 1e-9)
        # In units in which what matters is about 1.
        self.unit = np.maximum(work.max(0), 1e-9) / cost[0]
        self.price = _fitted(work / self.unit / cost[:, None], np.ones(len(cost)),
                             guess * self.unit) / self.unit

    def __call__(self, work: np.ndarray) -> np.ndarray:
        return work @ self.price


class Loss:
    """Predicts how much accuracy is lost, from how much each layer changes the outputs.

    Accuracy is lost with a power of the sum over the layers.  How much each of them counts is
    learned, from a guess that all count alike.

    Parameters
    ----------
    lost : how much layers change the outputs, shape ``(points, layers)``
    loss : loss of accuracy of the points, shape ``(points,)``
    scale : a loss that is worth knowing

    Members
    -------
    power : of the sum
    price : how much each layer counts, shape ``(layers,)``
    """

    def __init__(self, lost: np.ndarray, loss: np.ndarray, scale: float) -> None:
        loss = np.maximum(loss, 0)
        least = math.inf
        self.power, self.price = 1.0, np.ones(lost.shape[1])
        for power in POWERS:
            # Their errors are those of the loss, against the loss or the scale, whichever is more.
            sure = np.maximum(loss, scale) ** (1 / power)
            rows, wanted = lost / sure[:, None], loss ** (1 / power) / sure
            alike = rows.sum(1)
            unit = max(float(alike @ wanted) / max(float(alike @ alike), 1e-12), 1e-9)
            price = unit * _fitted(unit * rows, wanted, np.ones(lost.shape[1]))
            found = (lost @ price) ** power
            off = float(np.square((found - loss) / (loss + scale)).sum())
            if off < least:
                least, self.power, self.price = off, power, price

    def __call__(self, lost: np.ndarray) -> np.ndarray:
        return (lost @ self.price) ** self.power


def _fitted(rows: np.ndarray, wanted: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """Numbers of 0 or more with the least squares, near a guess."""
    pull = math.sqrt(PRIOR)
    whole = np.vstack([rows, pull * np.eye(len(guess))])
    return nnls(whole, np.concatenate([wanted, pull * guess]))[0]


class _Models:
    """Both models, fitted to what is known, and the points that they compare with."""

    def __init__(
        self, space: Space, judge: Judge[Problem], known: Mapping[Genome, Point | None], loss: float
    ) -> None:
        reference = judge.reference
        pairs = [(genome, point) for genome, point in known.items() if point is not None]
        people = np.array([genome for genome, _ in pairs])
        losses = np.array([reference.accuracy - point.accuracy for _, point in pairs])
        costs = np.array([float(point.interval) * point.dsp for _, point in pairs])
        # What was too wrong has no hardware of its own.
        made = np.array([judge.beyond(point.accuracy) <= 0 for _, point in pairs])
        self.whole = costs[0]
        self.space, self.limit = space, loss
        self.cost = Work(space.work_of(people[made]), costs[made])
        self.loss = Loss(space.lost_of(people), losses, loss)
        self.points = self._scaled(losses, costs)

    def __call__(self, people: np.ndarray) -> np.ndarray:
        """Predict what genomes will be.

        Returns
        -------
        values
            Shape ``(genomes, 2)``: the loss, which is 1 for the largest of interest, and the
            logarithm of cycles times DSPs against those of the network as it is.
        """
        return self._scaled(self.loss(self.space.lost_of(people)),
                            self.cost(self.space.work_of(people)))

    def _scaled(self, losses: np.ndarray, costs: np.ndarray) -> np.ndarray:
        return np.stack([np.maximum(losses, 0) / self.limit,
                         np.log(np.maximum(costs, 1e-9) / self.whole)], 1)


# Evolution

def _evolution(
    space: Space, models: _Models, people: np.ndarray, population: int, generations: int,
    random: np.random.Generator,
) -> np.ndarray:
    """The genomes that survive by the word of the models: NSGA-II (Deb et al., 2002)."""
    sizes = np.array([len(some) for some in space.ways.values()])
    people = np.unique(np.vstack([
        people, space.whole, random.integers(0, sizes, (population, len(sizes)))]), axis=0)
    worth = _worth(models(people))
    for _ in range(generations):
        pairs = random.integers(0, len(people), (2, population, 2))
        winners = np.where(worth[pairs[..., 0]] <= worth[pairs[..., 1]], *pairs.transpose(2, 0, 1))
        first, second = people[winners[0]], people[winners[1]]
        children = np.where(random.random(first.shape) < 0.5, first, second)
        # Another way altogether, or one nearby in cost.
        far = random.random(children.shape) < 0.5 / len(sizes)
        near = random.random(children.shape) < 1 / len(sizes)
        children = np.where(far, random.integers(0, sizes, children.shape), children)
        children = children + near * random.integers(-3, 4, children.shape)
        people = np.unique(np.vstack([people, np.clip(children, 0, sizes - 1)]), axis=0)
        worth = _worth(models(people))
        kept = np.argsort(worth, kind="stable")[:population]
        people, worth = people[kept], worth[kept]
    return people


def _worth(values: np.ndarray) -> np.ndarray:
    """The places of points in order, the best at 0.

    Points of an earlier front come first; within a front, those that are far from their neighbours.
    Of losses beyond what is of interest, small ones come first whatever they cost.
    """
    beyond = values[:, 0] > 1
    values = np.where(beyond[:, None], values[:, :1] * [1, 0] + [0, 1e3], values)
    better = ((values[:, None] <= values[None]).all(2) & (values[:, None] < values[None]).any(2))
    fronts = np.full(len(values), -1)
    left = np.ones(len(values), bool)
    number = 0
    while left.any():
        first = left & ~(better & left[:, None]).any(0)
        fronts[first] = number
        left &= ~first
        number += 1
    lonely = np.zeros(len(values))
    for front in range(number):
        members = np.flatnonzero(fronts == front)
        for axis in range(2):
            order = members[np.argsort(values[members, axis], kind="stable")]
            span = float(np.ptp(values[order, axis])) or 1.0
            lonely[order[[0, -1]]] = math.inf
            lonely[order[1:-1]] += (values[order[2:], axis] - values[order[:-2], axis]) / span
    places = np.empty(len(values), int)
    places[np.lexsort((-lonely, fronts))] = np.arange(len(values))
    return places


def _promising(
    space: Space, models: _Models, people: np.ndarray, known: Mapping[Genome, Point | None],
    count: int, random: np.random.Generator,
) -> list[Genome]:
    """Genomes to judge.

    One by one, each is the one that adds most to the area that known points beat.  If none would
    add to it, they are neighbours of the best.
    """
    new = [genome for genome in map(tuple, people.tolist()) if genome not in known]
    values = models(np.array(new)) if new else np.zeros((0, 2))
    beaten, chosen = models.points, []
    while new and len(chosen) < count:
        gains = [_area(np.vstack([beaten, value])) for value in values]
        best = int(np.argmax(gains))
        if gains[best] <= _area(beaten) + 1e-9:
            break
        chosen.append(new.pop(best))
        beaten = np.vstack([beaten, values[best]])
        values = np.delete(values, best, 0)
    for genome in _neighbours(space, people, random):
        if len(chosen) >= count or len(known) + len(chosen) >= space.size:
            break
        if genome not in known and genome not in chosen:
            chosen.append(genome)
    return chosen


def _area(values: np.ndarray) -> float:
    """The area of losses up to 1 and costs below 0 that points beat."""
    area, low = 0.0, 0.0
    for loss, cost in values[np.lexsort((values[:, 1], values[:, 0]))].tolist():
        if loss < 1 and cost < low:
            area += (1 - loss) * (low - cost)
            low = cost
    return area


def _neighbours(
    space: Space, people: np.ndarray, random: np.random.Generator
) -> Iterator[Genome]:
    """Genomes, first with one layer changed, then with more and more."""
    sizes = np.array([len(some) for some in space.ways.values()])
    number = 0
    while True:
        genome = people[random.integers(len(people))].copy()
        changed = random.permutation(len(sizes))[: 1 + number // 50]
        genome[changed] = random.integers(0, sizes[changed])
        yield tuple(genome.tolist())
        number += 1
