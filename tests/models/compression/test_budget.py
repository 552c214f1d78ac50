"""Ranks within a budget: never above it, near the best there is, the same every time."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.errors import HwgenError
from hwgen.models.compression.budget import Option, choose_options, options, sensitivities
from hwgen.models.compression.decomposition import Decomposition, cost
from hwgen.models.compression.layers import layers
from hwgen.models.compression.rewrite import decompose, squared_error
from hwgen.models.quantisation.calibrate import probe
from tests.models.float_networks import N, constants_of, network, noise
from tests.profiles import examples


def net(outputs=("y",)):
    return network(
        [N("Conv", ["x", "w"], ["a"], name="first", pads=[1, 1, 1, 1], strides=[2, 2]),
         N("Relu", ["a"], ["p"]), N("Conv", ["p", "v"], ["c"], name="second", pads=[1, 1, 1, 1]),
         N("Relu", ["c"], ["q"]), N("GlobalAveragePool", ["q"], ["g"]), N("Flatten", ["g"], ["f"]),
         N("Gemm", ["f", "m"], ["y"], name="head", transB=1), N("ArgMax", ["y"], ["z"], axis=1)],
        constants_of(w=(12, 3, 3, 3), v=(12, 12, 3, 3), m=(10, 12)), outputs=outputs)


@pytest.mark.parametrize("budget", ["macs", "parameters"])
def test_options_are_what_they_say(budget):
    for layer in layers(net()).values():
        found = options(layer, groups=(1, 2, 5), budget=budget)
        assert found == sorted(found, key=lambda o: (o.cost, o.error))
        whole = getattr(cost(layer), budget)
        assert [o for o in found if o.decomposition is None] == [Option(None, whole, 0.0)]
        assert found[-1].decomposition is None
        for option in found[:-1:5]:
            assert option.cost == getattr(cost(layer, option.decomposition), budget) < whole
            error = squared_error(layer.weight, option.decomposition)
            assert option.error == pytest.approx(error, rel=1e-4, abs=1e-9)


def test_options_for_each_shape():
    def kinds(layer):
        return {(o.decomposition.scheme, o.decomposition.groups)
                for o in options(layer, groups=(1, 2, 5)) if o.decomposition}

    found = layers(net())
    assert kinds(found["head"]) == {("svd_last", 1), ("svd_first", 1)}
    assert kinds(found["second"]) == {(s, g) for s in ("svd_spatial", "svd_last", "svd_first")
                                      for g in (1, 2)}
    marked = options(found["head"], ("svd_last",), bits=4)
    assert {o.decomposition.bits for o in marked if o.decomposition} == {4}


def test_options_refused():
    layer = layers(net())["head"]
    with pytest.raises(HwgenError, match=r"^Budget must be one of macs, parameters, not 'luts'"):
        options(layer, budget="luts")
    with pytest.raises(HwgenError, match=r"^Ranks are allocated for svd_spatial, .* not 'cpd'"):
        options(layer, ("svd_last", "cpd"))


def total(choices, chosen, sensitivity):
    """Cost and error of what was chosen."""
    price = error = 0.0
    for name, offered in choices.items():
        decomposition = chosen.get(name)
        (option,) = [o for o in offered if o.decomposition == decomposition]
        price += option.cost
        error += sensitivity.get(name, 1.0) * option.error
    return price, error


@st.composite
def tables(draw):
    """Options with costs and errors of no order at all; one of each layer is to stay."""
    choices, sensitivity = {}, {}
    for name in "abc"[: draw(st.integers(1, 3))]:
        pairs = draw(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 20)), max_size=5))
        choices[name] = [Option(Decomposition("cpd", k + 1), price, error / 20)
                         for k, (price, error) in enumerate(pairs)] + [Option(None, 30, 0.0)]
        sensitivity[name] = draw(st.floats(0, 10))
    return choices, sensitivity


@examples(300)
@given(tables(), st.integers(0, 60))
def test_within_the_budget_and_near_the_best(table, extra):
    choices, sensitivity = table
    least = sum(min(o.cost for o in offered) for offered in choices.values())
    budget = least + extra
    chosen = choose_options(choices, budget, sensitivity)
    price, error = total(choices, chosen, sensitivity)
    assert price <= budget
    # By trying everything: what the steps reach is at most one step from it.
    every = [(sum(o.cost for o in combination),
              sum(sensitivity[n] * o.error for n, o in zip(choices, combination)))
             for combination in itertools.product(*choices.values())]
    best = min(e for c, e in every if c <= budget)
    worst_step = max(sensitivity[n] * max(o.error for o in choices[n]) for n in choices)
    assert best - 1e-9 <= error <= best + worst_step + 1e-9
    # No single change that fits would take off more.
    for name, offered in choices.items():
        (now,) = [o for o in offered if o.decomposition == chosen.get(name)]
        for option in offered:
            if option.cost - now.cost <= budget - price:
                assert sensitivity[name] * (now.error - option.error) <= 1e-9
    backwards = dict(reversed(choices.items()))
    assert choose_options(backwards, budget, sensitivity).keys() <= choices.keys()
    assert choose_options(choices, budget, sensitivity) == chosen


def test_enough_for_all():
    choices = {name: options(layer) for name, layer in layers(net()).items()}
    whole = sum(offered[-1].cost for offered in choices.values())
    assert choose_options(choices, whole) == {}
    assert choose_options(choices, whole - 1)


def test_best_for_one_cost_is_found():
    """Steps of a convex curve that use up the budget are the optimum."""
    choices = {"a": [Option(Decomposition("cpd", k), 10 * k, 1 / k) for k in range(1, 9)],
               "b": [Option(Decomposition("cpd", k), 10 * k, 4 / k) for k in range(1, 9)]}
    chosen = choose_options(choices, 90)
    assert {name: choice.rank for name, choice in chosen.items()} == {"a": 3, "b": 6}
    chosen = choose_options(choices, 90, {"a": 4, "b": 1})
    assert abs(chosen["a"].rank - chosen["b"].rank) == 1
    chosen = choose_options(choices, 90, {"a": 1, "b": 0})
    assert {name: choice.rank for name, choice in chosen.items()} == {"a": 8, "b": 1}


def test_what_is_left_is_spent():
    """The next step of the curve does not fit, an option beside it does."""
    choices = {"a": [Option(Decomposition("cpd", 1), 10, 1.0), Option(Decomposition("cpd", 2), 15,
                                                                      0.9), Option(None, 20, 0.0)]}
    assert choose_options(choices, 17)["a"].rank == 2


@pytest.mark.parametrize("choices, budget, sensitivity, message", [
    ({"a": []}, 3, None, r"^Layer 'a' has no option"),
    ({"a": [Option(None, 1200, 0.0)]}, 1100, None,
     r"^Budget must be at least 1,200, which the cheapest options of all layers take, not 1,100"),
    ({"a": [Option(None, 1, 0.0)]}, 3, {}, r"^Sensitivity of layer 'a' must be .*, not None"),
    ({"a": [Option(None, 1, 0.0)]}, 3, {"a": -1.0}, r"^Sensitivity of layer 'a' .*, not -1.0"),
    ({"a": [Option(None, 1, 0.0)]}, 3, {"a": np.nan}, r"^Sensitivity of layer 'a' .*, not nan"),
])
def test_refused(choices, budget, sensitivity, message):
    with pytest.raises(HwgenError, match=message):
        choose_options(choices, budget, sensitivity)


TRIALS = {"first": Decomposition("svd_first", 2), "second": Decomposition("svd_spatial", 6),
          "head": Decomposition("svd_last", 4)}


def lost_at_outputs(before, after, feeds):
    lost = energy = 0.0
    for feed in feeds:
        want, got = (probe(n, ["y"])(feed)["y"] for n in (before, after))
        lost += np.square(got - want, dtype=np.float64).sum()
        energy += np.square(want, dtype=np.float64).sum()
    return lost / energy


def test_sensitivities_by_the_definition():
    before = net(outputs=("y", "z"))
    feeds = noise(before, 3)
    found = sensitivities(before, TRIALS, feeds)
    for name, trial in TRIALS.items():
        after = decompose(before, {name: trial})
        error = squared_error(layers(before)[name].weight, trial)
        want = lost_at_outputs(before, after, feeds) / error
        assert found[name] == pytest.approx(want, rel=1e-3)
        assert want > 0.01


def test_a_switched_off_layer_is_not_sensitive():
    """Only one of two branches counts at the output."""
    double = network(
        [N("Conv", ["x", "w"], ["a"], name="loud"), N("Conv", ["x", "v"], ["b"], name="quiet"),
         N("Mul", ["b", "k"], ["c"]), N("Add", ["a", "c"], ["y"])],
        constants_of(w=(8, 3, 3, 3), v=(8, 3, 3, 3)) | {"k": np.float32(1e-3)}, outputs=("y", "b"))
    double.outputs.remove("b")
    found = sensitivities(double, {n: Decomposition("svd_first", 1) for n in ("loud", "quiet")},
                          noise(double))
    assert found["quiet"] < found["loud"] * 1e-4
    choices = {name: options(layers(double)[name]) for name in ("loud", "quiet")}
    whole = choices["loud"][-1].cost
    chosen = choose_options(choices, whole + choices["quiet"][0].cost, found)
    assert "loud" not in chosen
    assert chosen["quiet"].rank == 1


def test_sensitivities_refused():
    before = net()
    feeds = noise(before)
    with pytest.raises(HwgenError, match=r"^Layer 'third' is unknown"):
        sensitivities(before, {"third": TRIALS["head"]}, feeds)
    with pytest.raises(HwgenError, match=r"^Layer 'head': rank of svd_last must be 1 to 10"):
        sensitivities(before, {"head": Decomposition("svd_last", 99)}, feeds)
    with pytest.raises(HwgenError, match=r"^Layer 'head': the trial must lose something"):
        sensitivities(before, {"head": Decomposition("svd_last", 10)}, feeds)
    with pytest.raises(HwgenError, match=r"^Sensitivity needs at least one frame"):
        sensitivities(before, TRIALS, [])
    with pytest.raises(HwgenError, match=r"^Sensitivity needs an output of floats"):
        sensitivities(net(outputs=("z",)), TRIALS, feeds)


def test_from_network_to_network():
    """All of it: options, sensitivities, ranks within half the MACs, and the network."""
    before = net()
    feeds = noise(before)
    found = layers(before)
    choices = {name: options(layer) for name, layer in found.items()}
    whole = sum(cost(layer).macs for layer in found.values())
    weights = sensitivities(before, TRIALS, feeds)
    chosen = choose_options(choices, whole // 2, weights)
    after = decompose(before, chosen)
    spent = sum(cost(layer, chosen.get(name)).macs for name, layer in found.items())
    assert sum(cost(layer).macs for layer in layers(after).values()) <= spent <= whole // 2
    even = {name: Decomposition("svd_spatial", 1) for name in ("first", "second")}
    assert lost_at_outputs(before, after, feeds) < lost_at_outputs(
        before, decompose(before, even), feeds)
