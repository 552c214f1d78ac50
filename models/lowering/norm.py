"""LayerNorm and RMSNorm of each pixel or token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwgen.ir import LayerNorm
from hwgen.models.onnx.layer_norms import NormPattern

if TYPE_CHECKING:
    from hwgen.models.lowering.core import Lowering

__all__ = ["put_norm"]


def put_norm(low: Lowering, pattern: NormPattern) -> None:
    """Add a normalisation in the place of its quotient."""
    tensor = low.tensor(pattern.x, pattern.axis)
    result = low.result(pattern.out)
    op = LayerNorm.from_types(low.type(tensor), result.quantisation, pattern.epsilon,
                              centred=pattern.centred)
    low.put(result.name, op, tensor, axis=pattern.out_axis)
