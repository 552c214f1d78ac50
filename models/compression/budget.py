"""Chooses a rank for each layer, so that all layers together lose little within a budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError, naming
from hwgen.models.compression import lowrank
from hwgen.models.compression.decomposition import SVD, Decomposition, cost
from hwgen.models.compression.layers import FloatLayer, find, read_layer
from hwgen.models.compression.rewrite import decompose, squared_error
from hwgen.models.frames.samples import Feed
from hwgen.models.onnx.network import Network
from hwgen.models.quantisation.calibrate import probe

__all__ = ["BUDGETS", "Option", "choose_options", "options", "sensitivities"]

BUDGETS = ("macs", "parameters")
LOSSLESS = 1e-9
"""Relative squared error that float32 makes of itself."""


@dataclass(frozen=True)
class Option:
    """What a layer may become.

    Members
    -------
    decomposition : None: it stays
    cost : in what the budget counts
    error : of the weights, squared Frobenius norm relative to that of the weights
    """

    decomposition: Decomposition | None
    cost: int
    error: float


def options(
    layer: FloatLayer, schemes: Sequence[str] = SVD, groups: Sequence[int] = (1,),
    budget: str = "macs", bits: int | None = None,
) -> list[Option]:
    """All ranks of SVD schemes that make a layer smaller, and the layer itself, cheapest first.

    Parameters
    ----------
    layer : to decompose
    schemes : of the SVD; one that the layer's shape does not allow gives no option
    groups : to try with each scheme, likewise
    budget : what cost is, ``macs`` or ``parameters`` (see
        :class:`hwgen.models.compression.decomposition.Cost`)
    bits : given to the decompositions; the error is that of real factors all the same

    Raises
    ------
    :exc:`HwgenError`
        If scheme or budget are unknown.
    """
    if budget not in BUDGETS:
        raise HwgenError(f"Budget must be one of {', '.join(BUDGETS)}, not {budget!r}")
    if unknown := [scheme for scheme in schemes if scheme not in SVD]:
        raise HwgenError(f"Ranks are allocated for {', '.join(SVD)}, not {unknown[0]!r}")
    whole = cost(layer)
    found = [Option(None, getattr(whole, budget), 0.0)]
    for scheme in schemes:
        for count in groups:
            try:
                cost(layer, Decomposition(scheme, 1, count))
            except HwgenError:
                continue
            values = np.linalg.svd(
                lowrank.unfold(layer.weight.astype(np.float64), scheme, count), compute_uv=False)
            squares = np.square(values).sum(0)
            left = np.append(np.cumsum(squares[::-1])[::-1], 0.0) / (squares.sum() or 1.0)
            for rank in range(1, len(squares) + 1):
                choice = Decomposition(scheme, rank, count, bits=bits)
                price = cost(layer, choice)
                if price.below(whole):
                    found.append(Option(choice, getattr(price, budget), float(left[rank])))
    return sorted(found, key=lambda option: (option.cost, option.error))


def choose_options(
    choices: Mapping[str, Sequence[Option]], budget: int,
    sensitivity: Mapping[str, float] | None = None,
) -> dict[str, Decomposition]:
    """Choose an option for each layer, so that ``sum(sensitivity * error)`` is small in a budget.

    At first only the options on the lower convex hull of error over cost count.  Every layer
    begins with its cheapest one; then the step that takes off the most error for its cost is taken,
    again and again, as long as one fits (Shoham and Gersho, "Efficient Bit Allocation for an
    Arbitrary Set of Quantizers", 1988).  The result is the optimum for the cost that it has.  What
    is left of the budget goes to the single changes that take off the most error.  The same input
    gives the same result.

    Parameters
    ----------
    choices : options of each layer
    budget : most cost of all these layers together
    sensitivity : what a layer's relative squared error counts, 0 or more; default 1 each

    Returns
    -------
    decomposition by layer; layers that stay are left out

    Raises
    ------
    :exc:`HwgenError`
        If a layer has no option or no sensitivity, or the budget is below the least cost.
    """
    weights = dict.fromkeys(choices, 1.0) if sensitivity is None else sensitivity
    for name, offered in choices.items():
        if not offered:
            raise HwgenError(f"Layer {name!r} has no option")
        if not math.isfinite(weights.get(name, -1.0)) or weights.get(name, -1.0) < 0:
            raise HwgenError(f"Sensitivity of layer {name!r} must be a number of 0 or more, "
                             f"not {weights.get(name)!r}")
    hulls = {name: _hull(offered) for name, offered in choices.items()}
    at = {name: hull[0] for name, hull in hulls.items()}
    left = budget - sum(option.cost for option in at.values())
    if left < 0:
        raise HwgenError(f"Budget must be at least {budget - left:,}, which the cheapest options "
                         f"of all layers take, not {budget:,}")

    def gain(name: str, option: Option) -> float:
        return weights[name] * (at[name].error - option.error)

    while True:
        steps = [(gain(name, hull[1]) / (hull[1].cost - at[name].cost), name)
                 for name, hull in hulls.items()
                 if len(hull) > 1 and hull[1].cost - at[name].cost <= left]
        if not steps:
            break
        _, name = max(steps, key=lambda step: step[0])
        left -= hulls[name][1].cost - at[name].cost
        hulls[name] = hulls[name][1:]
        at[name] = hulls[name][0]
    while True:
        changes = [(gain(name, option), name, option) for name, offered in choices.items()
                   for option in offered if option.cost - at[name].cost <= left]
        best, name, option = max(changes, key=lambda change: change[0])
        if best <= 0:
            break
        left -= option.cost - at[name].cost
        at[name] = option
    return {name: option.decomposition for name, option in at.items()
            if option.decomposition is not None}


def sensitivities(
    network: Network, trials: Mapping[str, Decomposition], feeds: Iterable[Feed]
) -> dict[str, float]:
    """How much of a layer's error reaches the network's outputs.

    Each layer is decomposed alone, as a trial.  Its sensitivity is the relative squared error of
    the outputs over the relative squared error of its weights.  That holds near the trial, so a
    trial should cut about as much as what will be chosen: a layer that is cut much more loses more
    than in proportion.

    Parameters
    ----------
    network : :class:`hwgen.models.onnx.network.Network`
    trials : decomposition by layer; one that loses something
    feeds : float inputs, one frame each

    Raises
    ------
    :exc:`HwgenError`
        If a layer cannot be decomposed so or loses nothing, there is no frame, or no output is
        float.
    """
    frames = list(feeds)
    if not frames:
        raise HwgenError("Sensitivity needs at least one frame")
    run = probe(network, network.outputs)
    wanted = [_floats(run(feed), network) for feed in frames]
    if not wanted[0].size:
        raise HwgenError("Sensitivity needs an output of floats")
    energy = sum(float(np.square(values).sum()) for values in wanted) or 1.0
    found = {}
    for name, trial in trials.items():
        layer = read_layer(network, find(network, name))
        with naming(f"Layer {name!r}"):
            error = squared_error(layer.weight, trial)
        if error < LOSSLESS:
            raise HwgenError(f"Layer {name!r}: the trial must lose something, not keep all with "
                             f"rank {trial.rank}")
        again = probe(decompose(network, {name: trial}, allow_growth=True), network.outputs)
        lost = sum(float(np.square(_floats(again(feed), network) - values).sum())
                   for feed, values in zip(frames, wanted, strict=True))
        found[name] = lost / energy / error
    return found


def _floats(values: Mapping[str, np.ndarray], network: Network) -> np.ndarray:
    parts = [values[name].ravel().astype(np.float64) for name in network.outputs
             if values[name].dtype.kind == "f"]
    return np.concatenate(parts) if parts else np.zeros(0)


def _hull(offered: Sequence[Option]) -> list[Option]:
    """Options on the lower convex hull of error over cost, from the cheapest to the best."""
    hull: list[Option] = []
    for option in sorted(offered, key=lambda o: (o.cost, o.error)):
        if hull and option.error >= hull[-1].error:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], option):
            hull.pop()
        hull.append(option)
    return hull


def _slope(a: Option, b: Option) -> float:
    return (b.error - a.error) / (b.cost - a.cost)
