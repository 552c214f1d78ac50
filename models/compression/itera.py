"""Low rank in integers: each rank makes up for what rounding the ranks before it has lost.

After ITERA-LLM (Zheng, Huang, Yu and Bouganis, "ITERA-LLM: Boosting Sub-8-Bit Large Language Model
Inference via Iterative Tensor Decomposition", 2025).  A matrix is taken apart rank by rank; the
singular vectors of what is left are rounded at once, so that the next rank sees their error too.
Then both factors are refined in turn: each gets the integers with which it fits the matrix best,
given the other one.

The hardware multiplies by these very integers: both layers have one scale for each output channel,
as lowering gives it to any layer.  The scale of a rank, which is a column of the second factor, is
part of the first factor's row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError

__all__ = ["IntegerPair", "decompose_then_quantise", "iterate"]

POWER = 30
"""Passes of the power iteration for the leading singular vectors."""
ROUNDS = 3
"""Times that the vectors of a rank are rounded in turn, each to fit the other."""
FINE, COARSE = np.linspace(1, 0.7, 7), np.linspace(1, 0.4, 13)
"""Shares of the largest weight that a scale may cover: 5 bits and more; fewer."""
RIDGE = 1e-8
"""Regularisation of the least squares, for ranks that are alike: a share of the largest squared
norm."""
BATCH = 1 << 21
"""Integers that are tried at once."""
TOLERANCE = 1e-3
"""The refinement ends with a pass that takes off a smaller share of the squared error."""


@dataclass(frozen=True)
class IntegerPair:
    """Two integer factors with scales: ``second_scale * second @ (first_scale * first)``.

    With several groups, columns of the matrix are cut into as many, and each rank belongs to one.

    Members
    -------
    second : integers, shape ``(rows, groups * rank)``
    second_scale : float64 that float32 holds, shape ``(rows / taps,)``: for ``taps`` rows each
    first : integers, shape ``(groups * rank, columns / groups)``
    first_scale : likewise, shape ``(groups * rank,)``
    groups : into how many the columns are cut
    bits : of all integers, which are symmetric
        Those of a channel either reach the largest magnitude or are 0, so that rounding the real
        factors anew gives the same integers.
    """

    second: np.ndarray
    second_scale: np.ndarray
    first: np.ndarray
    first_scale: np.ndarray
    groups: int
    bits: int

    def product(self) -> np.ndarray:
        """The matrix that the two stand for, shape ``(rows, columns)``."""
        taps = len(self.second) // len(self.second_scale)
        left = self.second * np.repeat(self.second_scale, taps)[:, None]
        return left @ _spread(self.first * self.first_scale[:, None], self.groups)

    def error(self, matrix: np.ndarray) -> float:
        """Frobenius norm of the difference from a matrix, relative to the matrix's own."""
        norm = float(np.linalg.norm(matrix))
        return float(np.linalg.norm(matrix - self.product())) / (norm or 1.0)


def decompose_then_quantise(
    matrix: np.ndarray, rank: int, bits: int, taps: int = 1, groups: int = 1,
    balance: float = 0.5,
) -> IntegerPair:
    """The usual way, for comparison: an SVD whose factors are rounded afterwards.

    Parameters
    ----------
    matrix, rank, bits, taps, groups : see :func:`iterate`
    balance : power of the singular values that the second factor gets, the first having the rest
        With 0 its columns are of one size; with 1 the first factor's rows are.

    Raises
    ------
    :exc:`HwgenError`
        See :func:`iterate`.
    """
    _check(matrix, rank, bits, taps, groups)
    limit = (1 << (bits - 1)) - 1
    left, first = _singular(matrix, rank, groups, balance)
    second, second_scale = _rounded(left.reshape(-1, taps * left.shape[1]), limit)
    return _pair(second.reshape(left.shape), second_scale, *_rounded(first, limit), groups, bits)


def iterate(
    matrix: np.ndarray, rank: int, bits: int, taps: int = 1, groups: int = 1, sweeps: int = 20,
) -> IntegerPair:
    """Integer factors of a matrix, rank by rank.

    For a rank, the leading singular vectors of what is left are rounded in turn, each after it was
    fitted to the other, and their product is subtracted.  A sweep of the refinement then chooses
    every row of the second factor anew, as the integers of least squared error for the first one
    (they are rounded one by one, and the rest makes up for it: Babai, "On Lovasz' lattice reduction
    and the nearest lattice point problem", 1986), and then every row of the first.  A change that
    does not lessen the error is discarded.

    Parameters
    ----------
    matrix : shape ``(rows, columns)``
    rank : of each group, 1 to the lesser of ``rows`` and ``columns / groups``
    bits : of the weights of both layers, 2..8
    taps : rows in a row that have one scale: the kernel's taps, where rows are ``(F, kernel)``
    groups : into how many the columns are cut, each with ranks of its own
    sweeps : most passes of the refinement; 0 leaves it out

    Raises
    ------
    :exc:`HwgenError`
        If a parameter is out of its range.
    """
    _check(matrix, rank, bits, taps, groups)
    if type(sweeps) is not int or sweeps < 0:
        raise HwgenError(f"Sweeps must be an integer of 0 or more, not {sweeps!r}")
    search = _Search(np.asarray(matrix, np.float64), rank, bits, taps, groups)
    search.greedy()
    search.rows_of_second()
    before = search.squared_error()
    for _ in range(sweeps):
        search.rows_of_first()
        search.rows_of_second()
        now = search.squared_error()
        if before - now <= TOLERANCE * before:
            break
        before = now
    return _pair(search.second, search.second_scale, search.first, search.first_scale, groups, bits)


class _Search:
    """Integers and scales of both factors while they are being found.

    Members
    -------
    second, first : integers as float64; the first with zeros in the columns of other groups
    second_scale, first_scale : float64
    """

    def __init__(
        self, matrix: np.ndarray, rank: int, bits: int, taps: int, groups: int
    ) -> None:
        self.matrix, self.taps, self.rank = matrix, taps, rank
        self.limit = (1 << (bits - 1)) - 1
        self.shares = FINE if bits > 4 else COARSE
        self.width = matrix.shape[1] // groups
        ranks = groups * rank
        self.left, self.right = _singular(matrix, rank, groups, 0.0)
        self.second = np.zeros((len(matrix), ranks))
        self.first = np.zeros((ranks, self.width))
        self.first_scale = np.ones(ranks)
        peak = np.abs(self.left).reshape(-1, taps * ranks).max(1)
        self.second_scale = np.where(peak > 0, peak, 1) / self.limit
        self.exact = False
        """Whether every row of the second factor reaches the limit."""

    def columns(self, k: int) -> slice:
        """Columns of the matrix that rank ``k`` reaches."""
        group = k // self.rank
        return slice(group * self.width, (group + 1) * self.width)

    def greedy(self) -> None:
        """Rank by rank; the scales of the second factor are those of the whole SVD."""
        left = self.matrix.copy()
        step = np.repeat(self.second_scale, self.taps)
        order = np.arange(len(self.first)).reshape(-1, self.rank).T.ravel()
        for k in order:
            part = left[:, self.columns(k)]
            right = _leading(part, self.right[k])
            for _ in range(ROUNDS):
                column = part @ right
                norm = np.linalg.norm(column)
                if norm == 0:
                    break
                column = np.clip(np.rint(column / (norm * step)), -self.limit, self.limit)
                real = column * step
                square = real @ real
                if square == 0:
                    break
                row, scale = self._best_scale(real @ part / square)
                self.second[:, k], self.first[k], self.first_scale[k] = column, row, scale
                right = row / max(float(np.linalg.norm(row)), 1)
            part -= np.outer(self.second[:, k] * step, self.first[k] * self.first_scale[k])

    def rows_of_first(self) -> None:
        """Round each rank's row to what is left for it, which is its optimum at each scale."""
        left = self.second * np.repeat(self.second_scale, self.taps)[:, None]
        gram, target = left.T @ left, left.T @ self.matrix
        real = _spread(self.first * self.first_scale[:, None], len(self.first) // self.rank)
        for k in range(len(real)):
            if gram[k, k] == 0:
                continue
            columns = self.columns(k)
            row = real[k, columns]
            wanted = row + (target[k, columns] - gram[k] @ real[:, columns]) / gram[k, k]
            found, scale = self._best_scale(wanted)
            new = found * scale
            if np.square(wanted - new).sum() < np.square(wanted - row).sum():
                self.first[k], self.first_scale[k] = found, scale
                real[k, columns] = new

    def rows_of_second(self) -> None:
        """Integers of least squares for each block of rows, at the best of several scales."""
        real = _spread(self.first * self.first_scale[:, None], len(self.first) // self.rank)
        gram, target = real @ real.T, self.matrix @ real.T
        gram += max(RIDGE * gram.diagonal().max(), 1e-300) * np.eye(len(gram))
        upper = np.linalg.cholesky(gram).T
        wanted = np.linalg.solve(gram, target.T).T
        blocks = len(self.second_scale)
        peak = np.abs(wanted).reshape(blocks, -1).max(1)
        scales = np.vstack([self.shares[:, None] * peak / self.limit, self.second_scale])
        scales = np.where(scales > 0, scales, 1)
        best = np.full(blocks, np.inf)
        if self.exact:
            best = self._errors(self.second, self.second_scale, gram, target)
        count = max(1, BATCH // (len(scales) * self.taps * len(gram)))
        for start in range(0, blocks, count):
            part = slice(start, start + count)
            rows = slice(start * self.taps, (start + count) * self.taps)
            found = self._choice(wanted[rows], target[rows], scales[:, part], gram, upper)
            integers, scale, errors = found
            better = errors < best[part]
            self.second_scale[part] = np.where(better, scale, self.second_scale[part])
            better = np.repeat(better, self.taps)[:, None]
            self.second[rows] = np.where(better, integers, self.second[rows])
        self.exact = True

    def _choice(
        self, wanted: np.ndarray, target: np.ndarray, scales: np.ndarray, gram: np.ndarray,
        upper: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Integers, scales and errors of some blocks, at the best of their ``scales``."""
        count, blocks = scales.shape
        starts = np.repeat(scales, self.taps, axis=1)[..., None]
        rows = self._nearest((wanted / starts).reshape(-1, len(gram)), upper)
        self._reach_limit(rows)
        targets = np.tile(target, (count, 1))
        scale = self._refit(rows, scales.ravel(), gram, targets)
        errors = self._errors(rows, scale, gram, targets).reshape(count, blocks)
        at = errors.argmin(0), np.arange(blocks)
        integers = rows.reshape(count, blocks, -1)[at].reshape(wanted.shape)
        return integers, scale.reshape(count, blocks)[at], errors[at]

    def squared_error(self) -> float:
        """Squared error of the product."""
        left = self.second * np.repeat(self.second_scale, self.taps)[:, None]
        right = _spread(self.first * self.first_scale[:, None], len(self.first) // self.rank)
        return float(np.square(self.matrix - left @ right).sum())

    def _nearest(self, wanted: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """Integers near real rows, in the norm of ``upper.T @ upper``, last rank first."""
        rows = np.zeros(wanted.shape)
        for k in reversed(range(len(upper))):
            shift = (wanted[:, k + 1 :] - rows[:, k + 1 :]) @ upper[k, k + 1 :] / upper[k, k]
            rows[:, k] = np.clip(np.rint(wanted[:, k] + shift), -self.limit, self.limit)
        return rows

    def _reach_limit(self, rows: np.ndarray) -> None:
        """In each block, move its largest integer to the limit, unless all are 0; in place."""
        flat = rows.reshape(-1, self.taps * rows.shape[1])
        at = np.arange(len(flat)), np.abs(flat).argmax(1)
        flat[at] = np.sign(flat[at]) * self.limit

    def _refit(
        self, rows: np.ndarray, scale: np.ndarray, gram: np.ndarray, target: np.ndarray
    ) -> np.ndarray:
        """The best scale of each block for its integers."""
        square = ((rows @ gram) * rows).sum(1).reshape(len(scale), -1).sum(1)
        along = (rows * target).sum(1).reshape(len(scale), -1).sum(1)
        return np.where((along > 0) & (square > 0), along / np.where(square > 0, square, 1), scale)

    def _errors(
        self, rows: np.ndarray, scale: np.ndarray, gram: np.ndarray, target: np.ndarray
    ) -> np.ndarray:
        """Squared errors of the blocks, less those of zeros."""
        real = rows * np.repeat(scale, self.taps)[:, None]
        return ((real @ gram - 2 * target) * real).sum(1).reshape(len(scale), -1).sum(1)

    def _best_scale(self, row: np.ndarray) -> tuple[np.ndarray, float]:
        """Integers and a scale for a row, of least squared error."""
        peak = float(np.abs(row).max())
        if peak == 0:
            return np.zeros_like(row), 1.0
        steps = row / (self.shares[:, None] * peak / self.limit)
        integers = np.clip(np.rint(steps), -self.limit, self.limit)
        # For the same integers, a scale fits best that is not what they were rounded with.
        scales = integers @ row / np.square(integers).sum(1)
        best = int(np.square(row - integers * scales[:, None]).sum(1).argmin())
        return integers[best], float(scales[best])


def _check(matrix: np.ndarray, rank: int, bits: int, taps: int, groups: int) -> None:
    rows, columns = matrix.shape
    if type(bits) is not int or not 2 <= bits <= 8:
        raise HwgenError(f"Bits must be 2 to 8, not {bits!r}")
    if groups < 1 or columns % groups or taps < 1 or rows % taps:
        raise HwgenError(f"Groups must divide {columns} columns and taps {rows} rows, "
                         f"not {groups!r} and {taps!r}")
    most = min(rows, columns // groups)
    if type(rank) is not int or not 1 <= rank <= most:
        raise HwgenError(f"Rank must be 1 to {most}, not {rank!r}")
    if not np.isfinite(matrix).all():
        raise HwgenError("Weights must be finite")


def _singular(
    matrix: np.ndarray, rank: int, groups: int, balance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Factors ``(rows, groups * rank)`` and ``(groups * rank, columns / groups)``, by SVD."""
    cut = np.asarray(matrix, np.float64).reshape(len(matrix), groups, -1).swapaxes(0, 1)
    left, values, right = np.linalg.svd(cut, full_matrices=False)
    values = values[:, :rank, None]
    left = left[:, :, :rank] * values.swapaxes(1, 2) ** balance
    right = right[:, :rank] * values ** (1 - balance)
    return np.hstack(list(left)), right.reshape(groups * rank, -1)


def _rounded(rows: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers of each row, and its scale, by its largest magnitude."""
    peak = np.abs(rows).max(1)
    scale = np.where(peak > 0, peak, 1) / limit
    return np.rint(rows / scale[:, None]), scale


def _leading(matrix: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The right singular vector of the largest singular value, by iteration from ``start``."""
    norm = np.linalg.norm(start)
    vector = start / norm if norm else np.full(len(start), len(start) ** -0.5)
    for _ in range(POWER):
        new = (matrix @ vector) @ matrix
        norm = np.linalg.norm(new)
        if norm == 0:
            break
        new /= norm
        near = abs(new @ vector) > 1 - 1e-8
        vector = new
        if near:
            break
    return vector


def _spread(first: np.ndarray, groups: int) -> np.ndarray:
    """The first factor over all columns, with zeros in those of other groups."""
    ranks, width = first.shape
    whole = np.zeros((groups, ranks // groups, groups, width))
    index = np.arange(groups)
    whole[index, :, index] = first.reshape(groups, -1, width)
    return whole.reshape(ranks, groups * width)


def _pair(
    second: np.ndarray, second_scale: np.ndarray, first: np.ndarray, first_scale: np.ndarray,
    groups: int, bits: int,
) -> IntegerPair:
    def held(scale: np.ndarray) -> np.ndarray:
        return scale.astype(np.float32).astype(np.float64)

    return IntegerPair(second.astype(np.int64), held(second_scale), first.astype(np.int64),
                       held(first_scale), groups, bits)
