"""Factorisations of weights: the matrices that a scheme unfolds them to, SVD, and CPD."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hwgen.models.compression.decomposition import Stage

__all__ = ["compose", "cpd", "fold_first", "fold_second", "largest", "svd", "unfold"]

SWEEPS = 300
"""Most passes of alternating least squares."""
TOLERANCE = 1e-6
"""The passes end when one lessens the relative squared error by less."""
PENALTY = 1e-3
"""Weight of the terms' squared norms: without it some terms grow large and cancel each other, which
rounding would undo (Phan et al., "Stable Low-rank Tensor Decomposition for Compression of
Convolutional Neural Network", 2020)."""


def unfold(weight: np.ndarray, scheme: str, groups: int) -> np.ndarray:
    """The matrix of each group, whose rank-r product an SVD scheme's two layers compute.

    Parameters
    ----------
    weight : shape ``(F, C, *kernel)``
    scheme : ``svd_last``: rows F, columns (C / groups, kernel);
        ``svd_first``: rows (F / groups, kernel), columns C;
        ``svd_spatial``: rows (F, Kh), columns (C / groups, Kw)
    groups : that C, or F for ``svd_first``, is cut into

    Returns
    -------
    shape ``(groups, rows, columns)``
    """
    cout, cin, *kernel = weight.shape
    if scheme == "svd_first":
        rows = np.moveaxis(weight, 1, -1).reshape(groups, -1, cin)
        return np.ascontiguousarray(rows)
    cut = np.moveaxis(weight.reshape(cout, groups, cin // groups, *kernel), 1, 0)
    if scheme == "svd_last":
        return cut.reshape(groups, cout, -1)
    return cut.swapaxes(2, 3).reshape(groups, cout * kernel[0], -1)


def fold_first(factor: np.ndarray, stage: Stage) -> np.ndarray:
    """Right factors ``(groups, rank, columns)`` as weights of the first layer."""
    return factor.reshape(stage.shape)


def fold_second(factor: np.ndarray, stage: Stage, scheme: str) -> np.ndarray:
    """Left factors ``(groups, rows, rank)`` as weights of the second layer."""
    groups, _, rank = factor.shape
    cout, kernel = stage.shape[0], stage.shape[2:]
    if scheme == "svd_first":
        return np.moveaxis(factor.reshape(cout, *kernel, rank), -1, 1)
    taps = math.prod(kernel)
    by_output = factor.reshape(groups, cout, taps, rank).transpose(1, 0, 3, 2)
    return by_output.reshape(stage.shape)


def svd(matrices: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Left ``(groups, rows, rank)`` and right ``(groups, rank, columns)`` factors.

    Their product is the nearest of that rank to each matrix (Eckart and Young, 1936).  Each factor
    takes the square root of the singular values: so the channels between the layers, which share
    one scale, have similar ranges, and so have the weights of a row of the second factor.
    """
    left, values, right = np.linalg.svd(matrices, full_matrices=False)
    root = np.sqrt(values[:, :rank])
    return left[:, :, :rank] * root[:, None], root[:, :, None] * right[:, :rank]


def cpd(tensor: np.ndarray, rank: int, seed: int = 0) -> list[np.ndarray]:
    """Canonical polyadic decomposition, by alternating least squares.

    ``tensor[i, j, ...] ~ sum_r f0[i, r] f1[j, r] ...``.  It starts from the left singular vectors
    of the unfoldings, with seeded noise where there are fewer than ``rank`` (Kolda and Bader,
    "Tensor Decompositions and Applications", 2009, section 3.4), and finds a local optimum.  A
    penalty on large norms leaves an error of about 1e-3 where the tensor has this rank.

    Parameters
    ----------
    tensor : two or more dimensions
    rank : number of terms
    seed : of the noise

    Returns
    -------
    a matrix ``(extent, rank)`` for each dimension; they share the terms' norms evenly
    """
    random = np.random.default_rng(seed)
    factors = []
    for k, extent in enumerate(tensor.shape):
        matrix = np.moveaxis(tensor, k, 0).reshape(extent, -1)
        left = np.linalg.svd(matrix @ matrix.T)[0][:, :rank]
        extra = random.standard_normal((extent, rank - left.shape[1]))
        factors.append(np.hstack([left, extra / np.sqrt(extent)]))
    total = float(np.vdot(tensor, tensor)) or 1.0
    before = np.inf
    for _ in range(SWEEPS):
        now = total
        for k in range(tensor.ndim):
            factors = [factor if j == k else _unit(factor) for j, factor in enumerate(factors)]
            gram = PENALTY * np.eye(rank) + np.prod(
                [factor.T @ factor for j, factor in enumerate(factors) if j != k], axis=0)
            target = _contracted(tensor, factors, k)
            factors[k] = np.linalg.solve(gram, target.T).T
            # At the optimum, of the squared error and the penalty together.
            now = total - float(np.vdot(factors[k], target))
        if before - now < TOLERANCE * total:
            break
        before = now
    norms = np.prod([np.linalg.norm(factor, axis=0) for factor in factors], axis=0)
    even = norms ** (1 / len(factors))
    return [_unit(factor) * even for factor in factors]


def largest(weight: np.ndarray, count: int) -> np.ndarray:
    """A copy with zeros but for the ``count`` weights of largest magnitude."""
    kept = np.argsort(-np.abs(weight).ravel(), kind="stable")[:count]
    result = np.zeros(weight.size)
    result[kept] = weight.ravel()[kept]
    return result.reshape(weight.shape)


def compose(stages: Sequence[Stage], weights: Sequence[np.ndarray]) -> np.ndarray:
    """Weights ``(F, C, *kernel)`` of the one layer that layers in a row amount to.

    Exact where no two of them reach over the same spatial dimension and none but the last has a
    bias, as padding then stays zero between them.
    """
    whole = _without_groups(stages[0], weights[0])
    for stage, weight in zip(stages[1:], weights[1:], strict=True):
        # One of the two has one tap in each dimension, and is repeated along it.
        whole = np.einsum("fm...,mc...->fc...", _without_groups(stage, weight), whole)
    return whole


def _without_groups(stage: Stage, weight: np.ndarray) -> np.ndarray:
    """Weights of a grouped convolution as those of one without groups, in float64."""
    cout, cin, *kernel = stage.shape
    groups = stage.groups
    whole = np.zeros((groups, cout // groups, groups, cin, *kernel))
    index = np.arange(groups)
    whole[index, :, index] = weight.reshape(groups, cout // groups, cin, *kernel)
    return whole.reshape(cout, groups * cin, *kernel)


def _contracted(tensor: np.ndarray, factors: Sequence[np.ndarray], kept: int) -> np.ndarray:
    """A tensor times the factors of all dimensions but one, term by term: ``(extent, rank)``."""
    others = [k for k in range(tensor.ndim) if k != kept]
    # The longest first, as a product of matrices: little is left for the rest.
    longest = max(others, key=lambda k: tensor.shape[k])
    rest = np.tensordot(factors[longest], tensor, axes=(0, longest))
    dims = [k for k in range(tensor.ndim) if k != longest]
    for k in others:
        if k != longest:
            along = np.moveaxis(rest, 1 + dims.index(k), -1)
            shape = (-1, *(1,) * (along.ndim - 2), tensor.shape[k])
            rest = (along * factors[k].T.reshape(shape)).sum(-1)
            dims.remove(k)
    return rest.T


def _unit(factor: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(factor, axis=0)
    return factor / np.where(norms > 0, norms, 1)
