"""Calibration: which values each tensor takes on real frames.

Every float tensor gets the range that its quantiser covers: all of its values (``minmax``), nearly
all of them (``percentile``), or those with the least squared error (``mse``).  The latter two let a
few values saturate, so that all others are rounded more finely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx

from hwgen.errors import HwgenError
from hwgen.models.frames.samples import Feed
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import WEIGHTED
from hwgen.models.onnx.session import session
from hwgen.models.quantisation.histogram import Histogram

__all__ = ["METHODS", "TensorStatistics", "probe", "statistics"]

METHODS = ("minmax", "percentile", "mse")

Ranges = dict[str, tuple[float, float]]

GUARDED = 1e6
"""By how much a reciprocal is larger than the least one if it is that of a guard."""


@dataclass(frozen=True)
class TensorStatistics:
    """What calibration found out about a network.

    Members
    -------
    ranges : per float tensor, the (low, high) that its quantiser covers
        It includes 0 where a clipping method chose it.
    extremes : per float tensor, its smallest and largest value
    means, peaks : per tensor that meets weights, mean and largest magnitude of each channel
        Channels are those that the weights have: dimension 1 in front of a convolution, the last
        one in front of a Gemm or MatMul.
    method : how the ranges were chosen
    """

    ranges: Ranges = field(default_factory=dict)
    extremes: Ranges = field(default_factory=dict)
    means: dict[str, np.ndarray] = field(default_factory=dict)
    peaks: dict[str, np.ndarray] = field(default_factory=dict)
    method: str = "minmax"


def probe(network: Network, names: Iterable[str]) -> Callable[[Feed], dict[str, np.ndarray]]:
    """A function from a network's inputs to the values of the tensors ``names``.

    Raises
    ------
    :exc:`HwgenError`
        If the network cannot be run.
    """
    names = [name for name in names if name not in network.inputs]
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    try:
        runner = session(model)
    except Exception as error:  # onnxruntime raises classes of its own for every fault
        raise HwgenError(f"The network cannot be run: {str(error)[:300]}") from None

    def values(feed: Feed) -> dict[str, np.ndarray]:
        try:
            found = runner.run(names, feed) if names else []
        except Exception as error:  # likewise
            raise HwgenError(f"The network cannot be run: {str(error)[:300]}") from None
        return {**feed, **{n: np.asarray(v) for n, v in zip(names, found, strict=True)}}

    return values


def statistics(
    network: Network,
    feeds: Iterable[Feed],
    method: str = "minmax",
    bits: int | Callable[[str], int] = 8,
    percentile: float = 99.99,
) -> TensorStatistics:
    """Run a network and choose the range of every float tensor.

    Frames pass one by one; of each tensor only a histogram of at most 2,048 bins is kept.  Inputs
    that stay within 0..1 are images: they, and tensors with fine codes, keep their exact range,
    whatever the method.  Inputs of normalised images keep that of all pixels.

    Parameters
    ----------
    network : :class:`hwgen.models.onnx.network.Network`
    feeds : float inputs, one frame each
    method : ``minmax``, ``percentile`` or ``mse``
    bits : of the quantisers, for ``mse``; or a function from a tensor's name to them
    percentile : share of a tensor's values (those that are 0 not counted) that the range keeps

    Raises
    ------
    :exc:`HwgenError`
        If an argument is wrong, there is no frame, or a tensor takes NaN or infinite values.
    """
    if method not in METHODS:
        raise HwgenError(f"Calibration method must be one of {', '.join(METHODS)}, not {method!r}")
    if not 50 < percentile <= 100:
        raise HwgenError(f"Percentile must be above 50 and at most 100, not {percentile!r}")
    result = TensorStatistics(method=method)
    histograms = _gather(network, feeds, result)
    result.ranges.update(result.extremes)
    for name, normalisation in network.normalised.items():
        least, most = normalisation.range
        low, high = result.extremes[name]
        result.ranges[name] = min(low, least), max(high, most)
    for name, histogram in histograms.items():
        low, high = result.extremes[name]
        image = name in network.inputs and low >= 0 and high <= 1
        if image or name in network.normalised or name in network.fine:
            continue
        if method == "percentile":
            result.ranges[name] = histogram.percentile(percentile)
        else:
            width = bits if isinstance(bits, int) else bits(name)
            result.ranges[name] = histogram.least_error(width)
    return result


def _gather(
    network: Network, feeds: Iterable[Feed], result: TensorStatistics
) -> dict[str, Histogram]:
    """Run all frames: fill extremes, means and peaks, and count values where the method asks."""
    # What is inside of an attention has no codes, and may be infinite where keys are hidden.
    inside = network.absorbed
    run = probe(network, [out for node in network.nodes for out in node.output
                          if out and out not in inside])
    channels = _channel_axes(network)
    reciprocals = {node.output[0] for node in network.nodes if node.op_type == "Reciprocal"}
    histograms: dict[str, Histogram] = {}
    frames = 0
    for feed in feeds:
        frames += 1
        for name, value in run(feed).items():
            if value.dtype.kind == "b":
                # A condition is a number, 0 or 1.
                value = value.astype(np.float32)
            if value.dtype.kind != "f" or not value.size:
                continue
            if name in reciprocals:
                value = _without_guards(value)
            low, high = _note_extremes(result, name, value)
            if result.method != "minmax":
                histograms.setdefault(name, Histogram()).add(value, low, high)
            if name in channels:
                _note_channels(result, name, np.moveaxis(value, channels[name], 0))
    if not frames:
        raise HwgenError("Calibration needs at least one frame")
    for name in result.means:
        result.means[name] /= frames
    return histograms


def _without_guards(value: np.ndarray) -> np.ndarray:
    """Reciprocals without those of next to nothing, as where a norm of zeros is guarded.

    What they multiply is 0 itself, and they would take the range of all others.
    """
    size = np.abs(value)
    least = size.min()
    return value[size <= GUARDED * least] if least > 0 and np.isfinite(size).all() else value


def _note_extremes(result: TensorStatistics, name: str, value: np.ndarray) -> tuple[float, float]:
    """Add a frame to the extremes of a tensor; returns its own."""
    low, high = float(value.min()), float(value.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise HwgenError(f"Tensor {name!r} becomes infinite or NaN on the calibration frames")
    before = result.extremes.get(name, (low, high))
    result.extremes[name] = min(low, before[0]), max(high, before[1])
    return low, high


def _channel_axes(network: Network) -> dict[str, int]:
    """Per tensor that meets constant weights, the dimension that they sum over."""
    axes: dict[str, int] = {}
    for node in network.nodes:
        if node.op_type in WEIGHTED and node.input[1] in network.constants:
            axes.setdefault(node.input[0], 1 if "Conv" in node.op_type else -1)
    return axes


def _note_channels(result: TensorStatistics, name: str, value: np.ndarray) -> None:
    """Add a frame, channels first, to the sums of the means and to the peaks."""
    flat = value.reshape(len(value), -1)
    peak = np.maximum(np.abs(flat.max(1)), np.abs(flat.min(1))).astype(np.float64)
    mean = flat.mean(1).astype(np.float64)
    if name in result.means:
        mean += result.means[name]
        peak = np.maximum(peak, result.peaks[name])
    result.means[name], result.peaks[name] = mean, peak
