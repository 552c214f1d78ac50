"""Cross-layer equalisation: channels between two convolutions get similar ranges.

A function with ``f(s x) = s f(x)`` for every positive ``s`` lets a scale pass from the output
channels of one convolution to the input channels of the next: the float network stays what it was,
while its weights lose less when they are rounded (Nagel et al., "Data-Free Quantization Through
Weight Equalization and Bias Correction", 2019, section 4.1).  What their section 4.1.3 adds
(moving large biases into the next layer) changes the function, and is not done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from hwgen.errors import HwgenError
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import attributes

__all__ = ["equalise"]

EQUIVARIANT = {
    "Abs", "AveragePool", "Dropout", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu",
    "MaxPool", "PRelu", "Relu",
}
"""Ops with ``f(s x) = s f(x)``, channel by channel; Clip(0, inf) is one too, ReLU6 is not."""
UNBOUNDED = float(np.finfo(np.float32).max)
DEAD = 1e-4
"""Channels whose range is a smaller share of the layer's largest are left alone."""
TOLERANCE = 1e-3
"""Equalisation ends when no scale differs more from 1, as a logarithm."""


def equalise(
    network: Network, peaks: Mapping[str, np.ndarray] | None = None, iterations: int = 100
) -> Network:
    """A network with the same function, and scales moved between successive convolutions.

    Of two convolutions with nothing but equivariant ops between them, channel ``i`` is divided by
    ``s[i] = sqrt(r1[i] / r2[i])`` behind the first and multiplied by it in front of the second,
    where ``r1`` and ``r2`` are the largest weights of the first's output channel and the second's
    input channel.  Tensors with several readers, network outputs, weights that several nodes
    share, and what the file itself quantised stay as they are.

    Parameters
    ----------
    network : :class:`hwgen.models.onnx.network.Network`, left as it is
    peaks : largest magnitude per channel of the second convolutions' inputs, by tensor
        (:attr:`hwgen.models.quantisation.calibrate.TensorStatistics.peaks`).  If given, it
        takes the place of ``r1``: better where each output channel's weights have a scale of their
        own (Xiao et al., "SmoothQuant", 2023, section 4).
    iterations : most passes over all pairs

    Raises
    ------
    :exc:`HwgenError`
        If ``iterations`` is negative, or peaks do not fit the channels.
    """
    if iterations < 0:
        raise HwgenError(f"Equalisation needs 0 or more iterations, not {iterations!r}")
    pairs = _pairs(network)
    names = {name for pair in pairs for name in (pair.first, pair.bias, pair.second) if name}
    arrays = {name: network.constants[name].astype(np.float64) for name in names}
    ranges = [pair.given(peaks) for pair in pairs]
    for _ in range(iterations):
        largest = 0.0
        for pair, given in zip(pairs, ranges, strict=True):
            scale = pair.scale(arrays, given)
            pair.apply(arrays, scale)
            if given is not None:
                given /= scale
            largest = max(largest, float(np.abs(np.log(scale)).max(initial=0)))
        if largest < TOLERANCE:
            break
    return network.with_constants({
        name: array.astype(network.constants[name].dtype) for name, array in arrays.items()
    })


@dataclass(frozen=True)
class _Pair:
    """Two convolutions: names of their constants, groups of the second, and the tensor it reads."""

    first: str
    bias: str
    second: str
    groups: int
    tensor: str

    def given(self, peaks: Mapping[str, np.ndarray] | None) -> np.ndarray | None:
        """A copy of the channels' peaks, where there are any."""
        found = None if peaks is None else peaks.get(self.tensor)
        return None if found is None else np.array(found, np.float64)

    def scale(self, arrays: Mapping[str, np.ndarray], given: np.ndarray | None) -> np.ndarray:
        """What each channel between the two is divided by."""
        first, second = arrays[self.first], self._by_input(arrays[self.second])
        r1 = _peak(first) if given is None else given
        r2 = np.abs(second).max((1, 3)).ravel()
        if r1.shape != r2.shape:
            raise HwgenError(f"Peaks of {self.tensor!r} must be {r2.shape[0]}, not {r1.shape}")
        # A channel that is all but dead on either side has no range to share: to enlarge its
        # weights would enlarge its bias, and with it the range of the whole tensor.
        live = (r1 > DEAD * r1.max()) & (r2 > DEAD * r2.max())
        return np.sqrt(np.where(live, r1, 1) / np.where(live, r2, 1))

    def apply(self, arrays: Mapping[str, np.ndarray], scale: np.ndarray) -> None:
        """Divide and multiply, in place."""
        arrays[self.first][...] /= scale.reshape(-1, *(1,) * (arrays[self.first].ndim - 1))
        if self.bias:
            arrays[self.bias][...] /= scale
        second = self._by_input(arrays[self.second])
        second *= scale.reshape(second.shape[0], 1, second.shape[2], 1)

    def _by_input(self, weight: np.ndarray) -> np.ndarray:
        """A view ``(groups, output channels, input channels, taps)``, both within a group."""
        cout, cin = weight.shape[:2]
        return weight.reshape(self.groups, cout // self.groups, cin, -1)


def _peak(weight: np.ndarray) -> np.ndarray:
    return np.abs(weight.reshape(len(weight), -1)).max(1)


def _pairs(network: Network) -> list[_Pair]:
    """The pairs that can be equalised, first to last."""
    uses: dict[str, int] = {}
    for node in network.model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    stored = {value.name for value in network.model.graph.initializer}

    def own(name: str) -> bool:
        """Whether a constant is read once only, and may take any value."""
        return (name in stored and name in network.constants and uses.get(name, 0) == 1
                and name not in network.weights)

    def bias_of(node: onnx.NodeProto) -> str:
        return node.input[2] if len(node.input) > 2 else ""

    pairs = []
    for node in network.nodes:
        if node.op_type != "Conv" or not own(node.input[1]):
            continue
        if bias_of(node) and not own(bias_of(node)):
            continue
        tensor = _behind(network, node.output[0])
        for second in network.users.get(tensor, [])[:1] if tensor else []:
            if second.op_type == "Conv" and own(second.input[1]):
                groups = int(attributes(second).get("group", 1))
                pairs.append(_Pair(node.input[1], bias_of(node), second.input[1], groups, tensor))
    return pairs


def _behind(network: Network, tensor: str) -> str:
    """The tensor past all equivariant ops; empty if it or one on the way must stay."""
    while True:
        users = network.users.get(tensor, [])
        if len(users) != 1 or tensor in network.outputs or tensor in network.codes:
            return ""
        if users[0].input[0] != tensor:
            return ""
        if not _equivariant(network, users[0]):
            return tensor
        tensor = users[0].output[0]


def _equivariant(network: Network, node: onnx.NodeProto) -> bool:
    if node.op_type == "Clip":
        at = attributes(node)
        bounds = [at.get("min", -np.inf), at.get("max", np.inf)]
        for k, name in enumerate(node.input[1:3]):
            # A bound that is computed may be anything.
            bounds[k] = float(network.constants.get(name, np.nan)) if name else bounds[k]
        return bounds[0] in (0.0, -np.inf, -UNBOUNDED) and bounds[1] >= UNBOUNDED
    extra = [name for name in node.output[1:] if name]
    fixed = all(name in network.constants for name in node.input[1:] if name)
    return node.op_type in EQUIVARIANT and fixed and not extra
