"""Schemes, groups and ranks chosen by gradient: the search of SVD-NAS.

After Yu and Bouganis, "SVD-NAS: Coupling Low-Rank Approximation and Neural Architecture Search",
2023: all decompositions of a layer are there at once, weighted by probabilities that descend the
sum of two losses, of accuracy and of hardware.  The first is how far features and outputs are from
those of the network as it was, so a few frames without labels will do.  The second is here the
number of DSPs with which the foldings of a layer keep up with the interval that is asked for.

All decompositions of a layer amount to weights of one shape, and those of lower rank are the first
terms of those of higher rank.  So the relaxed layer is the layer itself, with weights whose terms
are masked, and more ranks take no more memory.  One way is drawn for each layer and step, by the
straight-through Gumbel estimator (Jang et al., "Categorical Reparameterization with
Gumbel-Softmax", 2017): a mixture would lose less than any of its parts.

What the descent finds is repaired to fit, and hardware is designed for it; only what keeps within
the interval is judged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hwgen.device.multiplier import Packing
from hwgen.dse.design.streams import fold_choices
from hwgen.dse.low_rank.problem import Choice, Problem, hardware
from hwgen.dse.low_rank.ways import LayerChoice, ways
from hwgen.dse.tradeoff.digest import digest
from hwgen.dse.tradeoff.front import Front
from hwgen.dse.tradeoff.judge import Judge
from hwgen.errors import HwgenError
from hwgen.models.compression import lowrank
from hwgen.models.compression.decomposition import (
    SVD,
    Decomposition,
    from_json,
    plan,
    stages,
    to_json,
)
from hwgen.models.compression.layers import FloatLayer, find
from hwgen.models.frames.samples import Feed
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import attributes
from hwgen.models.training.network import TorchNetwork
from hwgen.models.training.repeatable import repeatable
from hwgen.models.training.tuning import imitation

__all__ = ["needed", "relax", "synthetic"]

TEMPERATURES = 1.0, 0.2
"""Temperatures of the draws, at the first and the last step."""
PRICE, FIRMNESS, STIFFNESS = 1.0, 0.05, 2.0
"""How the logarithm of what is needed beyond the budget counts: the multiplier that it starts with,
how fast that grows, and the penalty of its square."""
SLACK = 1.1
"""A way is looked at if its error is at most so many times that of any way that needs less."""
SAMPLES = 32
"""Frames that choices are compared on."""
MISSED = 0.98, 1.04
"""Factors of the room, and of what the ways of a choice need, when it turned out to be slower."""
LOOKS = 24
"""Choices that hardware is designed for, at most, for each budget."""
ROUNDS = 3
"""Rounds of the repair."""
MOST = 4096
"""Most ranks that are offered of a scheme."""

Ways = Mapping[str, Sequence[Decomposition | None]]
"""What each layer may become; None: it stays."""


def relax(
    judge: Judge[Problem], offered: Mapping[str, Sequence[LayerChoice]] | None = None, *,
    budgets: Sequence[float] = (0.8, 0.6, 0.5, 0.4, 0.3), steps: int = 300, rate: float = 0.1,
    tries: int = 2, multiplier: str = "dsp48e2", seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Front:
    """The best choices that are found for each budget, with their hardware.

    A search that was stopped goes on where it was, if the judge has a file.

    Parameters
    ----------
    judge : judges choices; what its file knows is not judged again
    offered : what layers may become, by SVD schemes with real factors; default all ranks of all
        these schemes in 1, 2 and 4 groups
    budgets : intervals, as shares of that of the network as it is; each is held
    steps, rate : steps of a descent, and learning rate of the logits
    tries : choices that are judged for a budget
    multiplier : the device's, one of :data:`hwgen.device.multiplier.MULTIPLIERS`
    seed : seed of the draws
    progress : called with what was found

    Raises
    ------
    :exc:`HwgenError`
        If a number is out of range, a layer cannot be relaxed, or nothing keeps within a budget.
    """
    for budget in budgets:
        if not 0 < budget <= 1:
            raise HwgenError(f"Budgets must be above 0 and at most 1, not {budget!r}")
    for name, number in (("steps", steps), ("tries", tries)):
        if number < 1:
            raise HwgenError(f"{name.capitalize()} must be 1 or more, not {number!r}")
    problem = judge.problem
    if offered is None:
        offered = {name: ways(layer, schemes=SVD, groups=(1, 2, 4), ranks=MOST)
                   for name, layer in problem.layers.items()}
    choices = {name: [way.decomposition for way in some] for name, some in offered.items()}
    mark = digest([choices, steps, rate, tries, multiplier, seed])[:16]
    search = _Search(judge, choices, multiplier, seed)
    for budget in budgets:
        key = f"relaxation {budget} {mark}"
        # Shares are of whole cycles.
        limit = budget * judge.reference.interval + 1e-6
        if key not in judge.journal.entries:
            progress(f"budget {budget:.2f}: descent")
            found = search.within(limit, steps, rate, tries)
            judge.journal.note(key, [json.loads(to_json(choice)) for choice in found])
        points = [judge(from_json(json.dumps(plain))) for plain in judge.journal.entries[key]]
        best = max(points, key=lambda point: point.accuracy)
        progress(f"budget {budget:.2f}: {best.interval:,} of {limit:,.0f} cycles, {best.dsp} DSPs, "
                 f"accuracy {best.accuracy:.4f}")
    return judge.front({"search": "relaxation", "budgets": list(budgets), "seed": seed})


class _Search:
    """A descent for each budget, and the repair of what it finds."""

    def __init__(self, judge: Judge[Problem], offered: Ways, multiplier: str, seed: int) -> None:
        self.judge, self.seed = judge, seed
        self.problem = problem = judge.problem
        if unknown := [name for name in offered if name not in problem.layers]:
            raise HwgenError(f"Layer {unknown[0]!r} is unknown: the network has "
                             f"{', '.join(map(repr, problem.layers))}")
        self.layers = {name: problem.layers[name] for name in offered}
        self.offered = offered
        self.relaxed = _Relaxed(problem.network, self.layers, offered)
        self.errors = {name: self.relaxed.errors(name) for name in offered}
        frames = list(problem.frames)[:SAMPLES]
        self._far = imitation(problem.network, problem.network, frames, batch=len(frames))
        self._needed = cache(lambda name, choice, interval: needed(
            problem, problem.layers[name], choice, interval, multiplier))
        self._lost: dict[tuple[int, ...], float] = {}

    def within(self, limit: float, steps: int, rate: float, tries: int) -> list[Choice]:
        """Choices that keep within an interval, first the nearest to the network as it was.

        Raises
        ------
        :exc:`HwgenError`
            If none was found.
        """
        known = self.problem.layers
        needs = {name: np.array([self._needed(name, choice, limit) for choice in some])
                 for name, some in self.offered.items()}
        # As much as the network as it was needs, with all that needs hardware beside.
        room = sum(self._needed(name, None, self.judge.reference.interval) for name in known)
        room -= sum(self._needed(name, None, limit) for name in known if name not in needs)
        useful = {name: _useful(self.offered[name], need, self.errors[name])
                  for name, need in needs.items()}
        least = sum(float(min(need)) for need in needs.values())
        found: list[Choice] = []
        if least <= room:
            descended = self._descend(needs, useful, room, steps, rate)
            seen: set[tuple[int, ...]] = set()
            for _ in range(LOOKS):
                pool = self._repaired(descended, needs, useful, max(room, least))
                new = [(lost, at) for at, lost in pool.items() if at not in seen]
                if not new or len(found) == tries:
                    break
                _, at = min(new)
                seen.add(at)
                choice = self._choice(at)
                # Tuned weights may need other hardware, by a little.
                if hardware(self.judge, choice).interval <= limit and (
                        self.judge(choice).interval <= limit):
                    found.append(choice)
                else:
                    room *= MISSED[0]
                    for name, k in zip(self.layers, at, strict=True):
                        needs[name][k] *= MISSED[1]
        if not found:
            raise HwgenError(f"Nothing was found that keeps within {limit:,.0f} cycles a frame: "
                             f"offer lower ranks or more layers, or raise the budget")
        return found

    def _descend(
        self, needs: Mapping[str, np.ndarray], useful: Mapping[str, np.ndarray], room: float,
        steps: int, rate: float,
    ) -> dict[str, np.ndarray]:
        """Logarithms of the ways' probabilities at the end of a descent."""
        loss = imitation(self.problem.network, self.problem.network, self.problem.frames,
                         batch=self.problem.batch, seed=self.seed)
        names = list(self.layers)
        costs = {name: torch.from_numpy(needs[name][useful[name]]).float() for name in names}
        logits = {name: torch.zeros(len(costs[name]), requires_grad=True) for name in names}
        optimiser = torch.optim.Adam(logits.values(), lr=rate)
        price, (first, last) = PRICE, TEMPERATURES
        with repeatable(self.seed):
            for step in range(steps):
                temperature = first * (last / first) ** (step / steps)
                drawn = {name: F.gumbel_softmax(logits[name], temperature, hard=True)
                         for name in names}
                far = loss(self.relaxed.run(drawn, useful), step)
                expected = torch.stack([(logits[name].softmax(0) * costs[name]).sum()
                                        for name in names]).sum()
                beyond = (expected / room).log()
                # A choice that loses nothing has no logarithm.
                value = (far + 1e-3).log() + price * beyond + STIFFNESS * beyond.clamp(min=0) ** 2
                optimiser.zero_grad()
                value.backward()
                optimiser.step()
                price = max(price + FIRMNESS * float(beyond.detach()), 0.0)
        return {name: logits[name].detach().log_softmax(0).numpy() for name in names}

    def _repaired(
        self, descended: Mapping[str, np.ndarray], needs: Mapping[str, np.ndarray],
        useful: Mapping[str, np.ndarray], room: float,
    ) -> dict[tuple[int, ...], float]:
        """Choices that fit, as indices of the layers' ways, and what they lose.

        The first is the likeliest that fits; then each layer's ways are tried, all others being as
        they are, and the best that fits if their losses add up is the next.
        """
        names = list(self.layers)
        fitting: dict[tuple[int, ...], float] = {}
        scores = [-descended[name] for name in names]
        for _ in range(ROUNDS + 1):
            best = _knapsack(scores, [needs[name][useful[name]] for name in names], room)
            at = tuple(int(useful[name][k]) for name, k in zip(names, best, strict=True))
            if at in fitting:
                break
            scores = []
            for place, name in enumerate(names):
                others = [(*at[:place], int(k), *at[place + 1 :]) for k in useful[name]]
                lost = [self._loss(other) for other in others]
                scores.append(np.array(lost))
                fitting |= {other: value for other, value in zip(others, lost, strict=True)
                            if self._takes(other, needs) <= room}
        return fitting

    def _loss(self, at: tuple[int, ...]) -> float:
        if at not in self._lost:
            one = {name: F.one_hot(torch.tensor(k), len(self.offered[name])).float()
                   for name, k in zip(self.layers, at, strict=True)}
            every = {name: np.arange(len(some)) for name, some in self.offered.items()}
            with torch.no_grad(), repeatable(self.seed):
                self._lost[at] = float(self._far(self.relaxed.run(one, every), 0))
        return self._lost[at]

    def _takes(self, at: tuple[int, ...], needs: Mapping[str, np.ndarray]) -> float:
        return float(sum(needs[name][k] for name, k in zip(self.layers, at, strict=True)))

    def _choice(self, at: tuple[int, ...]) -> dict[str, Decomposition]:
        picked = {name: self.offered[name][k] for name, k in zip(self.layers, at, strict=True)}
        return {name: choice for name, choice in picked.items() if choice is not None}


class _Relaxed:
    """A network with layers that are all their ways at once.

    Parameters
    ----------
    network, layers : the network, and its layers by name
    offered : what these may become

    Raises
    ------
    :exc:`HwgenError`
        If a way is of another kind, or weights are shared.
    """

    def __init__(self, network: Network, layers: Mapping[str, FloatLayer], offered: Ways) -> None:
        self.layers = layers
        self.model = TorchNetwork(network)
        self._constants = {name: _constant(network, name) for name in layers}
        self._weights = {name: torch.from_numpy(np.array(layer.weight))
                         for name, layer in layers.items()}
        self._stays = {name: torch.tensor([float(choice is None) for choice in some])
                       for name, some in offered.items()}
        self._families = {name: list(_families(layers[name], some))
                          for name, some in offered.items()}

    def run(
        self, probabilities: Mapping[str, Tensor], useful: Mapping[str, np.ndarray]
    ) -> Callable[..., dict[str, Tensor]]:
        """The network with ways by their probabilities, called like :class:`TorchNetwork`.

        Parameters
        ----------
        probabilities : for each layer, of some of its ways
        useful : for each layer, the indices of these ways among those that are offered
        """
        weights = {}
        for name, chances in probabilities.items():
            constant, turned = self._constants[name]
            whole = self.weight(name, chances, useful[name])
            weights[constant] = whole.T if turned else whole
        return lambda inputs, outputs=None: self.model(inputs, outputs, weights)

    def weight(self, name: str, chances: Tensor, useful: np.ndarray) -> Tensor:
        """The weights of a layer."""
        whole = (self._stays[name][useful] @ chances) * self._weights[name]
        for scheme, left, right, masks in self._families[name]:
            terms = chances @ masks[useful]
            whole = whole + _folded((left * terms) @ right, scheme, self.layers[name].shape)
        return whole

    def errors(self, name: str) -> np.ndarray:
        """The squared error of a layer's weights with each way, relative to their squared norm."""
        stays = self._stays[name]
        total = self._weights[name].square().sum() + 1e-30
        kept = stays * total
        for _, left, right, masks in self._families[name]:
            # Of each term; they are orthogonal.
            kept = kept + masks @ (left.square().sum(1) * right.square().sum(2)).sum(0)
        return (1 - kept / total).clamp(min=0).numpy()


def needed(
    problem: Problem, layer: FloatLayer, choice: Decomposition | None, interval: float,
    multiplier: str = "dsp48e2",
) -> float:
    """DSPs with which what becomes of a layer keeps up with an interval; infinite: it cannot.

    Each layer in a row has the cheapest folding that is fast enough, with a requantiser for each
    result that leaves in a cycle.  Queues and lanes of the streams between them are left out.

    Parameters
    ----------
    problem : has the bits of weights and activations
    layer, choice : the layer and what becomes of it; None: it stays
    interval : cycles a frame
    multiplier : the device's
    """
    bits, wide = problem.bits.weights(layer.name), problem.bits.activations(layer.name)
    products = Packing.densest(multiplier, wide, bits, (1 << (bits - 1)) - 1).products
    if choice is None:
        return _least(layer.shape, 1, math.prod(layer.outputs), products, interval)
    return sum(_least(stage.shape, stage.groups, pixels, products, interval)
               for stage, pixels in stages(layer, choice))


def synthetic(
    network: Network, count: int, *, mean: float = 0.0, deviation: float = 1.0,
    limits: tuple[float, float] | None = None, seed: int = 0,
) -> list[Feed]:
    """Make frames where there are none, of noise at all scales, because pictures have that.

    Nothing is known of what the network was trained on but the usual statistics of its inputs, so
    expect less of them than of even a few real frames.

    Parameters
    ----------
    network : the network that takes the frames
    count : number of frames
    mean, deviation : of the values, the mean and the standard deviation
    limits : least and greatest value
    seed : same seed, same frames

    Raises
    ------
    :exc:`HwgenError`
        If the number is below 1.
    """
    if count < 1:
        raise HwgenError(f"There must be 1 or more frames, not {count!r}")
    random = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        frame = {}
        for name in network.inputs:
            shape = network.shapes[name]
            values, scale = np.zeros(shape), 1
            while scale == 1 or any(scale < extent for extent in shape[2:]):
                coarse = random.standard_normal((*shape[:2], *(-(-n // scale) for n in shape[2:])))
                for axis in range(2, len(shape)):
                    coarse = np.repeat(coarse, scale, axis).take(range(shape[axis]), axis)
                values += coarse
                scale *= 2
            values = mean + deviation * (values - values.mean()) / (values.std() or 1.0)
            frame[name] = (values if limits is None else values.clip(*limits)).astype(np.float32)
        frames.append(frame)
    return frames


def _constant(network: Network, name: str) -> tuple[str, bool]:
    """Find a layer's weights.

    Returns
    -------
    constant, transposed
        The constant's name, and whether it is the transpose of the weights.
    """
    node = find(network, name)
    constant = node.input[1]
    if sum(list(other.input).count(constant) for other in network.nodes) > 1:
        raise HwgenError(f"Layer {name!r} shares its weights with another one: it cannot be "
                         f"relaxed")
    return constant, node.op_type != "Conv" and not attributes(node).get("transB")


def _families(
    layer: FloatLayer, some: Sequence[Decomposition | None]
) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Families of ways that differ only in their rank.

    Yields
    ------
    scheme, left, right, masks
        The factors are those of the highest rank; masks say which terms each way has, shape
        ``(ways, terms)``.
    """
    members: dict[tuple[str, int], list[int]] = {}
    for k, choice in enumerate(some):
        if choice is None:
            continue
        if choice.scheme not in SVD or choice.bits is not None or choice.residual is not None:
            raise HwgenError(f"Layer {layer.name!r}: only {', '.join(SVD)} with real factors can "
                             f"be relaxed, not {choice}")
        plan(layer.shape, choice)
        members.setdefault((choice.scheme, choice.groups), []).append(k)
    for (scheme, groups), places in members.items():
        ranks = np.array([0 if choice is None else choice.rank for choice in some])
        most = int(ranks[places].max())
        left, right = lowrank.svd(
            lowrank.unfold(layer.weight.astype(np.float64), scheme, groups), most)
        masks = np.zeros((len(some), most), np.float32)
        masks[places] = np.arange(most) < ranks[places, None]
        yield scheme, torch.from_numpy(left).float(), torch.from_numpy(right).float(), \
            torch.from_numpy(masks)


def _folded(matrices: Tensor, scheme: str, shape: tuple[int, ...]) -> Tensor:
    """The weights that :func:`hwgen.models.compression.lowrank.unfold` made matrices of."""
    cout, cin, *kernel = shape
    groups = len(matrices)
    if scheme == "svd_first":
        return matrices.reshape(cout, *kernel, cin).movedim(-1, 1)
    if scheme == "svd_last":
        return matrices.reshape(groups, cout, cin // groups, *kernel).movedim(0, 1).reshape(shape)
    rows, columns = kernel
    whole = matrices.reshape(groups, cout, rows, cin // groups, columns)
    return whole.permute(1, 0, 3, 2, 4).reshape(shape)


@cache
def _foldings(
    shape: tuple[int, ...], groups: int, windows: int, products: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cycles and DSPs of the foldings of a convolution that no other beats, the slowest first."""
    cout, cin, taps = shape[0] // groups, shape[1], math.prod(shape[2:])
    lanes, tap, pe = (a.ravel() for a in np.meshgrid(
        *(fold_choices(n) for n in (cin, taps, cout)), indexing="ij"))
    steps, folds = -(-cin // lanes) * -(-taps // tap), groups * -(-cout // pe)
    cycles = windows * folds * steps
    dsps = lanes * tap * -(-pe // products) + -(-pe // steps)
    order = np.lexsort((cycles, dsps))
    best = np.r_[np.inf, np.minimum.accumulate(cycles[order])[:-1]]
    kept = order[cycles[order] < best]
    return cycles[kept], dsps[kept]


def _least(
    shape: tuple[int, ...], groups: int, windows: int, products: int, interval: float
) -> float:
    cycles, dsps = _foldings(shape, groups, windows, products)
    enough = np.flatnonzero(cycles <= interval)
    return float(dsps[enough[0]]) if len(enough) else math.inf


def _useful(
    some: Sequence[Decomposition | None], needs: np.ndarray, errors: np.ndarray
) -> np.ndarray:
    """Indices of the ways to look at.

    Each is the best of its scheme and groups for the DSPs that it needs, and hardly worse than any
    other way that needs no more.
    """
    lowest: dict[tuple, float] = {}
    kept = []
    for k in np.lexsort((errors, needs)):
        choice = some[k]
        family = () if choice is None else (choice.scheme, choice.groups)
        if needs[k] < math.inf and errors[k] < lowest.get(family, math.inf) and (
                errors[k] <= SLACK * min(lowest.values(), default=math.inf)):
            kept.append(int(k))
        lowest[family] = min(errors[k], lowest.get(family, math.inf))
    return np.array(kept, int)


def _knapsack(
    scores: Sequence[np.ndarray], needs: Sequence[np.ndarray], room: float
) -> tuple[int, ...]:
    """Choose one of each so that the scores' sum is least and the needs' sum is within the room."""
    states: list[tuple[float, float, tuple[int, ...]]] = [(0.0, 0.0, ())]
    rest = [sum(min(need) for need in needs[k + 1 :]) for k in range(len(needs))]
    for score, need, later in zip(scores, needs, rest, strict=True):
        reached = sorted(
            (takes + n, total + s, (*chosen, k)) for takes, total, chosen in states
            for k, (s, n) in enumerate(zip(score.tolist(), need.tolist(), strict=True))
            if takes + n + later <= room)
        states = []
        for state in reached:
            if not states or state[1] < states[-1][1]:
                states.append(state)
    return states[-1][2]
