"""Factorisations: nearest of their rank, exact where they can be, the same every time."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.models.compression import lowrank
from hwgen.models.compression.decomposition import Decomposition, plan
from hwgen.models.compression.rewrite import factorise, reconstruct, squared_error


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


SVD = [("svd_spatial", 1), ("svd_spatial", 2), ("svd_spatial", 6), ("svd_last", 1),
       ("svd_last", 3), ("svd_last", 6), ("svd_first", 1), ("svd_first", 4), ("svd_first", 8)]


def unfolded(weight, scheme, groups):
    """By the definition: the matrices of the docstring, element by element."""
    cout, cin, kh, kw = weight.shape
    found = []
    for g in range(groups):
        part = (weight[g * cout // groups : (g + 1) * cout // groups] if scheme == "svd_first"
                else weight[:, g * cin // groups : (g + 1) * cin // groups])
        f, c = part.shape[:2]
        by_rows = {"svd_spatial": (0, 2, 1, 3), "svd_last": (0, 1, 2, 3),
                   "svd_first": (0, 2, 3, 1)}[scheme]
        rows = {"svd_spatial": f * kh, "svd_last": f, "svd_first": f * kh * kw}[scheme]
        found.append(part.transpose(by_rows).reshape(rows, -1))
        assert found[-1].shape[1] == {"svd_spatial": c * kw, "svd_last": c * kh * kw,
                                      "svd_first": c}[scheme]
    return np.stack(found)


@pytest.mark.parametrize("scheme, groups", SVD)
def test_svd_is_the_nearest(scheme, groups):
    """The error is what the singular values beyond the rank leave (Eckart and Young)."""
    weight = normal(8, 6, 3, 2)
    matrices = unfolded(weight, scheme, groups)
    np.testing.assert_array_equal(lowrank.unfold(weight, scheme, groups), matrices)
    values = np.linalg.svd(matrices, compute_uv=False)
    for rank in range(1, values.shape[1] + 1):
        error = squared_error(weight, Decomposition(scheme, rank, groups))
        left = np.square(values[:, rank:]).sum() / np.square(values).sum()
        assert error == pytest.approx(left, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("scheme, groups", SVD)
def test_svd_finds_what_has_the_rank(scheme, groups):
    choice = Decomposition(scheme, 1, groups)
    (stages,) = plan((8, 6, 3, 2), choice)
    weight = lowrank.compose(stages, [normal(*s.shape, seed=k) for k, s in enumerate(stages)])
    assert weight.shape == (8, 6, 3, 2)
    assert squared_error(weight, choice) < 1e-12
    assert squared_error(normal(8, 6, 3, 2), choice) > 0.05


def test_factors_share_the_singular_values():
    second, first = lowrank.svd(normal(2, 5, 7), 3)
    np.testing.assert_allclose(np.linalg.norm(second, axis=1), np.linalg.norm(first, axis=2))


@pytest.mark.parametrize("shape", [(8, 6, 3, 3), (8, 6, 5), (5, 7, 3, 2, 3), (6, 4, 1, 3), (8, 6),
                                   (1, 6, 3, 3)])
def test_cpd_finds_what_has_the_rank(shape):
    wide = [n for k, n in enumerate(shape) if k < 2 or n > 1]
    rank = min(2, math.prod(wide) // max(wide))
    factors = [normal(n, rank, seed=k) for k, n in enumerate(wide)]
    modes = "abcde"[: len(wide)]
    terms = ",".join(f"{mode}r" for mode in modes)
    weight = np.einsum(f"{terms}->{modes}", *factors).reshape(shape)
    assert squared_error(weight, Decomposition("cpd", rank)) < 1e-5


def test_cpd_of_a_matrix_is_its_svd():
    matrix = normal(9, 7)
    for rank in (1, 3, 6):
        values = np.square(np.linalg.svd(matrix, compute_uv=False))
        error = squared_error(matrix, Decomposition("cpd", rank))
        assert error == pytest.approx(values[rank:].sum() / values.sum(), rel=1e-2)


def test_more_ranks_lose_less():
    weight = normal(8, 6, 3, 2)
    errors = [squared_error(weight, Decomposition("cpd", rank)) for rank in (1, 4, 12, 36)]
    assert all(b < a for a, b in zip(errors, errors[1:]))
    # As many terms as there are combinations of all but the longest dimension hold everything.
    assert errors[-1] < 1e-4


def test_cpd_terms_do_not_cancel():
    """Noise is where terms like to grow without bounds."""
    weight = normal(8, 6, 3, 2)
    factors = lowrank.cpd(weight, 6)
    norms = np.prod([np.square(f).sum(0) for f in factors], axis=0)
    assert norms.sum() < 5 * np.square(weight).sum()
    product = np.einsum("ar,br,cr,dr->abcd", *factors)
    assert np.square(weight - product).sum() < 0.46 * np.square(weight).sum()


def test_cpd_can_be_repeated():
    """Here the rank exceeds two dimensions, so that the seed matters."""
    weight = normal(8, 6, 3, 3)
    one, two, other = (reconstruct(factorise(weight, Decomposition("cpd", 12, seed=seed)))
                       for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_cpd_shares_norms_evenly():
    factors = lowrank.cpd(normal(8, 6, 3), 4)
    norms = np.array([np.linalg.norm(f, axis=0) for f in factors])
    np.testing.assert_allclose(norms, norms[:1].repeat(3, 0))


@pytest.mark.parametrize("scheme", ["svd_spatial", "svd_last", "svd_first", "cpd"])
def test_zeros(scheme):
    branches = factorise(np.zeros((8, 6, 3, 3)), Decomposition(scheme, 2))
    assert (reconstruct(branches) == 0).all()
    assert all(np.isfinite(f.weight).all() for branch in branches for f in branch)


@given(st.integers(0, 99), st.integers(1, 40))
def test_the_largest_are_kept(seed, count):
    weight = normal(5, 8, seed=seed)
    kept = lowrank.largest(weight, count)
    chosen = kept != 0
    assert chosen.sum() == count
    np.testing.assert_array_equal(kept[chosen], weight[chosen])
    assert np.abs(weight[chosen]).min() >= np.abs(weight[~chosen]).max(initial=0)


def test_residual_branches():
    weight = normal(8, 6, 3, 3)
    alone = squared_error(weight, Decomposition("svd_first", 2))
    more = Decomposition("svd_first", 2, residual=Decomposition("svd_first", 1))
    three = squared_error(weight, Decomposition("svd_first", 3))
    assert squared_error(weight, more) == pytest.approx(three, rel=1e-5)
    other = Decomposition("svd_first", 2, residual=Decomposition("svd_spatial", 3))
    assert squared_error(weight, other) < alone
    # Of the residual, the larger half in magnitude is exact: what is left is the smaller one.
    sparse = Decomposition("svd_first", 2, residual=Decomposition("sparse", density=0.5))
    left = np.square(weight - reconstruct(factorise(weight, Decomposition("svd_first", 2)))).ravel()
    want = np.sort(left)[: left.size // 2].sum() / np.square(weight).sum()
    assert squared_error(weight, sparse) == pytest.approx(want, rel=1e-5)


def test_the_residual_sees_what_rounding_lost():
    weight = normal(16, 12, 3, 3)
    rough = Decomposition("svd_first", 12, bits=3)
    lost = squared_error(weight, rough)
    assert lost > 1e-3
    mended = Decomposition("svd_first", 12, bits=3, residual=Decomposition("svd_first", 12))
    assert squared_error(weight, mended) < 1e-10
