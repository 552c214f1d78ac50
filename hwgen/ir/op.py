"""What every op is: typed integer tensors in and out, a shape rule, an exact meaning.

Arrays carry a batch axis in front: ``(frames, *spatial, channels)``.  Spatial dimensions are as
many as the type has: none, one, two or three.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hwgen.ir.types import TensorType

if TYPE_CHECKING:
    from hwgen.ir.conv import Convolution

__all__ = ["Op"]


@dataclass(frozen=True, eq=False)
class Op(ABC):
    """What is computed.  Subclasses are frozen dataclasses."""

    arity: ClassVar[int | None] = 1
    """Number of inputs; ``None`` where it varies."""

    @abstractmethod
    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """Types of the outputs.

        Raises
        ------
        :exc:`HwgenError`
            If the inputs do not fit the op.
        """

    @abstractmethod
    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        """Exact values of the outputs, for inputs of shape ``(frames, *type.shape)``."""

    def as_conv(self, x: TensorType) -> Convolution | None:
        """The convolution that the op amounts to, for an input of a type; None if it is none."""
        return None

    def macs(self, *inputs: TensorType) -> int:
        """Multiply-accumulates a frame, as papers count them: window taps, padding included."""
        return 0
