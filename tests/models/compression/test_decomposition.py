"""Decompositions as data: what is legal, what they cost, and JSON."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.errors import HwgenError
from hwgen.models.compression.decomposition import (
    SCHEMES,
    Cost,
    Decomposition,
    cost,
    from_json,
    plan,
    to_json,
)
from hwgen.models.compression.layers import FloatLayer

SPARSE = Decomposition("sparse", density=0.1)


def layer(shape, inputs=(), outputs=None):
    return FloatLayer("l", "Conv", np.ones(shape), inputs, inputs if outputs is None else outputs)


def branches():
    ranks, seeds = st.integers(1, 99), st.integers(0, 9)
    groups, bits = st.integers(1, 8), st.none() | st.integers(2, 8)
    svd = st.sampled_from(["svd_spatial", "svd_last", "svd_first"])
    density = st.floats(0, 1, exclude_min=True, exclude_max=True)

    def whole(residual):
        return (st.builds(Decomposition, svd, ranks, groups, bits=bits, residual=residual)
                | st.builds(Decomposition, st.just("cpd"), ranks, seed=seeds, residual=residual))

    return whole(st.none() | st.builds(Decomposition, st.just("sparse"), density=density)
                 | whole(st.none()))


@given(st.dictionaries(st.text(), branches(), max_size=4))
def test_json_and_back(choices):
    text = to_json(choices)
    assert from_json(text) == choices
    assert to_json(from_json(text)) == text


def test_json_is_brief():
    choice = Decomposition("svd_first", 4, residual=SPARSE)
    assert json.loads(to_json({"a": choice})) == {
        "a": {"scheme": "svd_first", "rank": 4,
              "residual": {"scheme": "sparse", "density": 0.1}}}


@pytest.mark.parametrize("text, message", [
    ("{", r"^Decompositions are not JSON: "),
    ("[]", r"^Decompositions must be a table from layers"),
    ('{"a": 3}', r"^Layer 'a': a decomposition is a table with a scheme, not 3"),
    ('{"a": {"rank": 3}}', r"^Layer 'a': a decomposition is a table with a scheme"),
    ('{"a": {"scheme": "tucker", "rank": 3}}',
     r"^Layer 'a': Scheme must be one of svd_spatial, .*, sparse, not 'tucker'"),
    ('{"a": {"scheme": "cpd", "ranks": 3}}',
     r"^Layer 'a': 'ranks' is unknown: a decomposition has scheme, rank, "),
    ('{"a": {"scheme": "cpd", "rank": 3, "residual": 4}}',
     r"^Layer 'a': a decomposition is a table with a scheme, not 4"),
    ('{"a": {"scheme": ["cpd"], "rank": 3}}', r"^Layer 'a': Scheme must be one of "),
    ('{"a": {"scheme": "cpd", "rank": true}}', r"^Layer 'a': Rank of cpd must be an integer of 1"),
])
def test_json_refused(text, message):
    with pytest.raises(HwgenError, match=message):
        from_json(text)


@pytest.mark.parametrize("options, message", [
    ({"scheme": "svd"}, r"^Scheme must be one of .*, not 'svd'"),
    ({"scheme": "cpd", "rank": 0}, r"^Rank of cpd must be an integer of 1 or more, not 0"),
    ({"scheme": "cpd", "rank": 2.0}, r"^Rank of cpd must be an integer of 1 or more, not 2.0"),
    ({"scheme": "svd_last", "rank": 2, "groups": 0}, r"^Groups of svd_last must be an integer"),
    ({"scheme": "cpd", "rank": 2, "seed": -1}, r"^Seed of cpd must be an integer of 0"),
    ({"scheme": "cpd", "rank": 2, "groups": 2}, r"^Groups must be 1 with cpd, not 2"),
    ({"scheme": "cpd", "rank": 2, "bits": 4}, r"^Bits must be None, or 2 to 8 .* not 4 with cpd"),
    ({"scheme": "svd_last", "rank": 2, "bits": 1}, r"^Bits must be None, or 2 to 8 .* not 1"),
    ({"scheme": "svd_last", "rank": 2, "bits": 9}, r"^Bits must be None, or 2 to 8 .* not 9"),
    ({"scheme": "sparse"}, r"^Density of sparse must be above 0 and below 1, not 0"),
    ({"scheme": "sparse", "density": 1.0}, r"^Density of sparse must be above 0 and below 1"),
    ({"scheme": "sparse", "density": "x"}, r"^Density of sparse must be above 0 and below 1"),
    ({"scheme": "sparse", "rank": 1, "density": 0.5}, r"^A sparse branch has neither"),
    ({"scheme": "cpd", "rank": 1, "density": 0.5}, r"^Density must be 0 with cpd, not 0.5"),
    ({"scheme": "cpd", "rank": 1, "residual": "cpd"}, r"^Residual must be None or a Decomp"),
    ({"scheme": "cpd", "rank": 1, "residual": Decomposition("cpd", 1, residual=SPARSE)},
     r"^A residual has no residual"),
])
def test_refused(options, message):
    with pytest.raises(HwgenError, match=message):
        Decomposition(**options)


@pytest.mark.parametrize("shape, options, message", [
    ((8, 6, 3, 3), ("svd_spatial", 19), r"rank of svd_spatial must be 1 to 18 for .*, not 19"),
    ((8, 6, 3, 3), ("svd_spatial", 10, 2), r"must be 1 to 9 for .* in 2 groups, not 10"),
    ((8, 6, 3, 3), ("svd_last", 9), r"must be 1 to 8 "),
    ((8, 6, 3, 3), ("svd_first", 7), r"must be 1 to 6 "),
    ((8, 6, 3, 3), ("cpd", 55), r"must be 1 to 54 "),
    ((8, 6, 3, 3), ("svd_last", 1, 4), r"groups must divide 6 input channels, not 4"),
    ((8, 6, 3, 3), ("svd_first", 1, 6), r"groups must divide 8 output channels, not 6"),
    ((8, 6, 3), ("svd_spatial", 1), r"svd_spatial needs a kernel of 2 dimensions, not \[3\]"),
    ((8, 6), ("svd_spatial", 1), r"svd_spatial needs a kernel of 2 dimensions"),
    ((8, 6), ("svd_last", 1, 2), r"a fully connected layer is decomposed in one group, not 2"),
])
def test_not_possible_for_a_shape(shape, options, message):
    choice = Decomposition(*options)
    with pytest.raises(HwgenError, match=message):
        plan(shape, choice)
    with pytest.raises(HwgenError, match=rf"^Layer 'l': .*{message}"):
        cost(layer(shape, (5,) * (len(shape) - 2)), choice)
    with pytest.raises(HwgenError, match=rf"^residual: .*{message}"):
        plan(shape, Decomposition("cpd", 1, residual=choice))


def test_costs_by_hand():
    """Stride 2 along both dimensions: where each layer takes it decides what the next one does."""
    conv = layer((16, 8, 3, 5), (10, 12), (5, 6))
    assert cost(conv) == Cost(16 * 8 * 15, 16 * 8 * 15 * 30)
    assert cost(conv, Decomposition("svd_spatial", 4)) == Cost(
        4 * 8 * 5 + 16 * 4 * 3, 4 * 8 * 5 * 10 * 6 + 16 * 4 * 3 * 30)
    assert cost(conv, Decomposition("svd_spatial", 4, 2)) == Cost(
        8 * 4 * 5 + 16 * 8 * 3, 8 * 4 * 5 * 10 * 6 + 16 * 8 * 3 * 30)
    assert cost(conv, Decomposition("svd_last", 3, 4)) == Cost(
        12 * 2 * 15 + 16 * 12, (12 * 2 * 15 + 16 * 12) * 30)
    assert cost(conv, Decomposition("svd_first", 2, 4)) == Cost(
        8 * 8 + 16 * 2 * 15, 8 * 8 * 120 + 16 * 2 * 15 * 30)
    assert cost(conv, Decomposition("cpd", 5)) == Cost(
        5 * (8 + 3 + 5 + 16), 5 * (8 * 120 + 3 * 5 * 12 + 5 * 30 + 16 * 30))
    both = cost(conv, Decomposition("cpd", 5, residual=SPARSE))
    assert both == Cost(5 * 32 + 192, 5 * (8 * 120 + 3 * 60 + 5 * 30 + 16 * 30) + 192 * 30)


def test_a_stride_over_one_tap_is_taken_first():
    conv = layer((8, 8, 1, 1), (8, 8), (4, 4))
    for scheme in ("svd_spatial", "svd_last", "svd_first", "cpd"):
        assert cost(conv, Decomposition(scheme, 2)) == Cost(32, 32 * 16)


@given(st.sampled_from(SCHEMES[:4]), st.integers(1, 4),
       st.lists(st.integers(1, 4), min_size=2, max_size=4))
def test_each_dimension_has_one_stage(scheme, rank, shape):
    """Whatever the kernel, its taps and strides are those of one layer; rank multiplies cost."""
    shape = (4 * shape[0], 4 * shape[1], *shape[2:])
    if scheme == "svd_spatial" and len(shape) != 4:
        return
    (stages,) = plan(shape, Decomposition(scheme, rank))
    axes = sorted(axis for stage in stages for axis in stage.axes)
    assert axes == list(range(len(shape) - 2))
    for axis, taps in enumerate(shape[2:]):
        assert [s.shape[2 + axis] for s in stages if axis in s.axes] == [taps]
        assert math.prod(s.shape[2 + axis] for s in stages) == taps
    assert stages[0].shape[1] * stages[0].groups == shape[1]
    assert stages[-1].shape[0] == shape[0]
    for one, two in zip(stages, stages[1:]):
        assert one.shape[0] == two.shape[1] * two.groups
    flat = layer(shape, (9,) * (len(shape) - 2))
    assert cost(flat, Decomposition(scheme, rank)).macs == rank * cost(
        flat, Decomposition(scheme, 1)).macs
