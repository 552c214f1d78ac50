"""Ranks and bits of least error under limits of time: the search of ITERA-LLM.

After Zheng, Huang, Yu and Bouganis, "ITERA-LLM: Boosting Sub-8-Bit Large Language Model Inference
via Iterative Tensor Decomposition", 2025, section IV: every layer has options with a cost and an
error; each error counts by how much of it reaches the output; what is left is to choose.  There
the cost is a model of the engine that all layers share.  Here layers work side by side and share
the DSPs of the board: an option costs the DSPs that it keeps busy for a cycle, by how many of its
products share one, and the budget is corrected until the hardware that is designed for the choice
has the interval that is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from hwgen.device.multiplier import Packing
from hwgen.dse.low_rank.problem import Choice, Problem, hardware, weight_error
from hwgen.dse.low_rank.ways import LayerChoice, ways
from hwgen.dse.tradeoff.front import Front
from hwgen.dse.tradeoff.judge import Judge
from hwgen.errors import HwgenError
from hwgen.models.compression.budget import Option, choose_options, sensitivities
from hwgen.models.compression.decomposition import stages
from hwgen.models.compression.layers import FloatLayer

__all__ = ["busy", "fit", "measured"]

CLOSE = 0.02
"""Intervals that are shorter than the limit by less are close enough."""


def fit(
    judge: Judge[Problem], offered: Mapping[str, Sequence[LayerChoice]] | None = None, *,
    limits: Sequence[float] = (0.8, 0.7, 0.6, 0.5), corrections: int = 4,
    sensitivity: Mapping[str, float] | None = None, multiplier: str = "dsp48e2",
    progress: Callable[[str], None] = lambda _: None,
) -> Front:
    """The choices of least error within each limit of the interval, with their hardware.

    Parameters
    ----------
    judge : of choices; what its file knows is not judged again
    offered : what layers may become; default all :func:`hwgen.dse.low_rank.ways.ways` of SVD
        schemes
    limits : intervals, as shares of that of the network as it is
    corrections : times that the budget is corrected for the hardware that it gave; it goes on only
        as long as no hardware is within the limit
    sensitivity : how much a layer's relative squared error counts; default :func:`measured`
    multiplier : the device's, one of :data:`hwgen.device.multiplier.MULTIPLIERS`
    progress : called with what was found

    Raises
    ------
    :exc:`HwgenError`
        If a limit is out of range, or no choice is within it.
    """
    for limit in limits:
        if not 0 < limit <= 1:
            raise HwgenError(f"Limits must be above 0 and at most 1, not {limit!r}")
    problem = judge.problem
    if offered is None:
        offered = {name: ways(layer, schemes=("svd_last", "svd_first"))
                   for name, layer in problem.layers.items()}
    offered = {name: list(some) for name, some in offered.items() if len(some) > 1}
    if not offered:
        raise HwgenError("No layer can become smaller in the ways that are offered")
    if sensitivity is None:
        sensitivity = measured(judge, offered)
    choices = {name: _options(judge, problem.layers[name], some, multiplier)
               for name, some in offered.items()}
    whole = sum(busy(layer, LayerChoice.of(layer), problem, multiplier)
                for layer in problem.layers.values())
    fixed = whole - sum(max(o.cost for o in some if o.decomposition is None)
                        for some in choices.values())
    most = judge.reference.interval
    for limit in limits:
        choice = _within(judge, choices, sensitivity, limit * most, fixed, limit * whole,
                         corrections)
        point = judge(choice)
        progress(f"limit {limit:.2f}: {len(choice)} layers decomposed, {point.interval:,} of "
                 f"{most:,} cycles, {point.dsp} DSPs, accuracy {point.accuracy:.4f}")
    return judge.front({"limits": list(limits)})


def measured(
    judge: Judge[Problem], offered: Mapping[str, Sequence[LayerChoice]]
) -> dict[str, float]:
    """How much of each layer's error reaches the network's outputs.

    Each layer is tried with the middle one of its ways, see
    :func:`hwgen.models.compression.budget.sensitivities`.
    """
    def made() -> dict[str, float]:
        trials = {}
        for name, some in offered.items():
            lossy = [way.decomposition for way in some if way.decomposition is not None]
            trials[name] = lossy[len(lossy) // 2]
        return sensitivities(judge.problem.network, trials, judge.problem.frames)

    return dict(judge.journal.once(f"sensitivity {sorted(offered)}", made))


def busy(layer: FloatLayer, way: LayerChoice, problem: Problem, multiplier: str = "dsp48e2") -> int:
    """Cycles times DSPs that a layer takes a frame, times 1,000.

    Parameters
    ----------
    layer, way : the layer and what becomes of it
    problem : has the bits of activations, and of weights that are not integers
    multiplier : the device's
    """
    precision = problem.bits
    if way.decomposition is None:
        products = [way.cost.macs]
        bits = precision.weights(layer.name)
    else:
        products = [stage.nonzero * pixels for stage, pixels in stages(layer, way.decomposition)]
        bits = way.decomposition.bits or precision.weights(layer.name)
    wide = precision.activations(layer.name)
    packed = Packing.densest(multiplier, wide, bits, (1 << (bits - 1)) - 1).products
    return sum(math.ceil(1000 * macs / packed) for macs in products)


def _options(
    judge: Judge[Problem], layer: FloatLayer, some: Sequence[LayerChoice], multiplier: str
) -> list[Option]:
    return [Option(way.decomposition, busy(layer, way, judge.problem, multiplier),
                   weight_error(judge, layer, way.decomposition)) for way in some]


def _within(
    judge: Judge[Problem], choices: Mapping[str, Sequence[Option]],
    sensitivity: Mapping[str, float], limit: float, fixed: int, budget: float, corrections: int,
) -> Choice:
    """The choice with the largest budget whose interval is within a limit."""
    least = sum(min(option.cost for option in some) for some in choices.values()) + fixed
    best: Choice | None = None
    low, high, budget = float(least), math.inf, max(budget, least)
    corrected = 0
    while corrected <= corrections or (best is None and high > (1 + CLOSE) * low):
        corrected += 1
        choice = choose_options(choices, int(budget) - fixed, sensitivity)
        interval = hardware(judge, choice).interval
        if interval <= limit:
            best, low = choice, budget
            if interval >= (1 - CLOSE) * limit:
                break
        else:
            high = budget
        # Hardware takes steps: where a correction leads out of what is open, halve that.
        budget *= limit / interval
        if not low < budget < high or corrected > corrections:
            budget = (low + high) / 2 if high < math.inf else 1.02 * low
    if best is None:
        choice = choose_options(choices, int(low) - fixed, sensitivity)
        if hardware(judge, choice).interval > limit:
            raise HwgenError(
                f"No choice needs at most {limit:,.0f} cycles a frame: offer lower ranks, fewer "
                f"bits, or ask for a higher limit"
            )
        best = choice
    return best
