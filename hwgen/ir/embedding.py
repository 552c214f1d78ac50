"""Embedding: a number comes in, a row of a table goes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir.op import Op
from hwgen.ir.types import Quantisation, TensorType, whole

__all__ = ["Embedding"]


@dataclass(frozen=True, eq=False)
class Embedding(Op):
    """The rows of a table, by their numbers, which are called ids: words, bytes, places.

    The code of an id is the id plus the smallest code, so that codes are signed as in every stream:
    with 9 bits, id 0 is -256.  There are no more than 65,536 ids, because codes have 16 bits.  A
    code beyond the last row stands for the last row; the host refuses such ids, so none comes from
    it.

    Parameters
    ----------
    rows : integer array, shape ``(ids, width)``
    output : :class:`Quantisation`

    Raises
    ------
    :exc:`HwgenError`
        If the table is no matrix, or has more rows than there are codes, or if its values do not
        fit the output.
    """

    rows: np.ndarray
    output: Quantisation

    def __post_init__(self) -> None:
        rows = whole(self.rows, "Rows of an embedding")
        if rows.ndim != 2 or not rows.size or len(rows) > 1 << 16:
            raise HwgenError(f"Rows of an embedding must be a matrix of 1 to 65536 rows, not of "
                             f"shape {rows.shape!r}")
        if (rows < self.output.low).any() or (rows > self.output.high).any():
            raise HwgenError(f"Rows of an embedding must fit {self.output.bits} signed bits")
        object.__setattr__(self, "rows", rows.astype(self.output.dtype))

    @staticmethod
    def ids(count: int) -> Quantisation:
        """The codes of so many ids: as many bits as they need, at least 2.

        Raises
        ------
        :exc:`HwgenError`
            If 16 bits are too few.
        """
        if not 1 <= count <= 1 << 16:
            raise HwgenError(f"There must be 1 to 65536 ids, not {count!r}")
        bits = max((count - 1).bit_length(), 2)
        return Quantisation(1.0, -(1 << (bits - 1)), bits)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        if x.channels != 1:
            raise HwgenError(f"Ids must be the only channel of their tensor, not {x.channels}")
        if x.zero_point != x.quantisation.low or x.scale != 1:
            raise HwgenError("Ids must be counted from the smallest code, in steps of 1")
        return (TensorType((*x.spatial, self.rows.shape[1]), self.output),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        ids = inputs[0][..., 0].astype(np.int64) - types[0].quantisation.low
        return (self.rows[np.minimum(ids, len(self.rows) - 1)],)
