"""Recurrent cells, in the one form in which :mod:`hwgen.models.onnx.recurrent` writes them."""

from __future__ import annotations

import numpy as np
import onnx

from hwgen.errors import HwgenError
from hwgen.ir import Quantisation, Recurrent
from hwgen.models.lowering.core import Lowering, handles
from hwgen.models.onnx.nodes import attributes

__all__: list[str] = []


@handles("LSTM", "GRU", "RNN")
def _recurrent(low: Lowering, node: onnx.NodeProto) -> None:
    name, out = node.input[0], node.output[0]
    positions = low.positions(name).transpose(1, 0, 2)
    source = low.arranged(low.view(name).tensor, positions, name, 2)
    kind = node.op_type.lower()
    r = low.constant(node.input[2])[0]
    units = r.shape[-1]
    weight = r.reshape(-1, units, units).transpose(1, 0, 2)
    bias = low.constant(node.input[3])[0].reshape(2, -1, units)[1]
    starts = [low.constant(i).ravel() for i in node.input[5:]]
    _check_starts(kind, starts)
    at = attributes(node)
    function = at.get("activations", [b"Tanh"])[0].decode()
    x, keep = low.type(source), low.network.keep_state
    op = Recurrent.from_float(
        kind, weight, x, _codes(low, out, starts[0], keep and function == "Tanh"),
        weight_bits=low.precision.weights(node.name, out),
        bias=bias[2] if kind == "gru" else None, initial_h=starts[0],
        initial_c=starts[1] if kind == "lstm" else None, function=function,
        keep=keep, reset_first=kind == "gru" and not at.get("linear_before_reset"))
    low.put(out, op, source,
            positions=np.arange(x.pixels * units).reshape(low.shape(out)))


def _codes(low: Lowering, name: str, start: np.ndarray, whole: bool) -> Quantisation:
    """Codes of the units without a zero point; they hold what the cell begins with too.

    ``whole``: whatever there can be, up to 1, for no frame of the calibration is long enough.
    """
    codes = low.quantisation(name)
    most = max((codes.high - codes.zero_point) * codes.scale,
               (codes.zero_point - codes.low) * codes.scale, abs(start).max(),
               float(whole))
    return Quantisation(float(np.float32(most / ((1 << (codes.bits - 1)) - 1))), 0, codes.bits)


def _check_starts(kind: str, starts: list[np.ndarray]) -> None:
    """Refuse states to begin with that no state has later."""
    if kind == "gru" and abs(starts[0]).max() > 1:
        raise HwgenError(f"initial_h must be within -1..1, not {starts[0].min():.3g}.."
                         f"{starts[0].max():.3g}")
    if kind == "lstm" and abs(starts[1]).max() > 15:
        raise HwgenError(f"initial_c must be within -15..15, not {starts[1].min():.3g}.."
                         f"{starts[1].max():.3g}")


