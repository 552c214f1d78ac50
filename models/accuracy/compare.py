"""Accuracy layer by layer: how far each integer tensor is from the float one, and why.

Each tensor has two figures, both signal-to-noise ratios.  One is that of the integer network run
end to end, where the errors of all earlier layers add up; the other that of its layer alone, fed
with the float network's tensors rounded to the layer's inputs (debuggers of quantisation in vendor
tools offer both).  The layer with the lowest ratio of its own is where more bits or another range
help.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir import Convolution, ConvTranspose, Gemm, Graph, Node, Quantisation, Reshape
from hwgen.models.accuracy.frames import to_frame
from hwgen.models.accuracy.report import Accuracy, Row, decibels
from hwgen.models.frames.samples import Feed
from hwgen.models.onnx.network import Network
from hwgen.models.quantisation.calibrate import probe

__all__ = ["measure"]


def measure(
    network: Network,
    graph: Graph,
    feeds: Iterable[Feed],
    floats: Mapping[str, str] | None = None,
) -> Accuracy:
    """Compare an integer graph with its float network, tensor by tensor, a frame at a time.

    Parameters
    ----------
    network : :class:`hwgen.models.onnx.network.Network`
    graph : :class:`hwgen.ir.Graph`
    feeds : float inputs, one frame each
    floats : tensor name of the graph to that of the network; default ``graph.meta["floats"]``
        A tensor without a float one, or with one of an unclear layout, gets no row: its error
        counts as that of the layers which read it.  Inputs that are missing go by their order.

    Raises
    ------
    :exc:`HwgenError`
        If there is no frame, an input has no float tensor of its shape, or a tensor has another
        number of elements than its float one.
    """
    names = dict(graph.meta.get("floats", {}) if floats is None else floats)
    if len(graph.inputs) == len(network.inputs):
        for ours, theirs in zip(graph.inputs, network.inputs, strict=True):
            names.setdefault(ours, theirs)
    known = {*network.inputs, *(out for node in network.nodes for out in node.output if out)}
    names = {ours: name for ours, name in names.items() if ours in graph.types and name in known}
    names = {ours: _activated(network, name, graph.types[ours].quantisation)
             for ours, name in names.items()}
    run = probe(network, sorted(set(names.values())))
    meters: dict[str, _Meter] = {}
    frames = 0
    for feed in feeds:
        frames += 1
        _Frame(graph, names, run(feed), meters)
    if not frames:
        raise HwgenError("The accuracy needs at least one frame")
    nodes = {out: node for node in graph.nodes for out in node.outputs}
    return Accuracy(
        tuple(_row(graph, nodes.get(t), t, names.get(t, ""), meters) for t in graph.types
              if t in meters),
        frames,
    )


def _activated(network: Network, name: str, quantisation: Quantisation) -> str:
    """The float tensor to compare with: that behind a ReLU if codes hold nothing negative."""
    readers = network.users.get(name, [])
    if (len(readers) == 1 and readers[0].op_type in ("Relu", "Clip")
            and name not in network.outputs and quantisation.dequantise(quantisation.low) >= 0):
        return readers[0].output[0]
    return name


@dataclass
class _Meter:
    """Sums over the elements of one tensor."""

    signal: float = 0.0
    noise: float = 0.0
    own: float = 0.0
    rounding: float = 0.0
    clipping: float = 0.0
    weights: float = 0.0
    clipped: int = 0
    count: int = 0

    def add(
        self, real: np.ndarray, quantisation: Quantisation, rounded: np.ndarray,
        ours: np.ndarray, own: np.ndarray,
    ) -> None:
        """Take in a frame: the float tensor, its codes, those end to end, those of the layer."""

        def noise(codes: np.ndarray) -> float:
            return float(np.square(quantisation.dequantise(codes) - real).sum(dtype=np.float64))

        ends = quantisation.dequantise(np.array([quantisation.low, quantisation.high]))
        beyond = real - np.clip(real, *ends)
        # What rounds to the last code is not beyond the range.
        beyond[np.abs(beyond) <= quantisation.scale / 2] = 0
        self.signal += float(np.square(real).sum(dtype=np.float64))
        total = noise(ours)
        self.noise += total
        self.own += total if own is ours else noise(own)
        self.rounding += noise(rounded)
        self.clipping += float(np.square(beyond).sum(dtype=np.float64))
        self.clipped += int(np.count_nonzero(beyond))
        self.count += real.size


class _Frame:
    """One frame, run end to end and layer by layer, and added to the sums.

    Parameters
    ----------
    graph : the integer graph
    names : tensor name of the graph to that of the float network
    values : tensors of the float network
    meters : sums by tensor of the graph; this frame is added to them
    """

    def __init__(
        self, graph: Graph, names: Mapping[str, str], values: Feed, meters: dict[str, _Meter]
    ) -> None:
        self._graph, self._names, self._values, self._meters = graph, names, values, meters
        self._makers = {node.outputs[0]: node for node in graph.nodes}
        self._ours: dict[str, np.ndarray] = {}
        """Codes of the integer network, end to end."""
        self._references: dict[str, np.ndarray] = {}
        """Codes of the float tensors, where there are any; else those of the layer alone."""
        for tensor, type in graph.inputs.items():
            value = self._real(tensor)
            if value is None:
                raise HwgenError(f"Input {tensor!r} ({type}) has no float tensor of its shape")
            codes = type.quantisation.quantise(value)[None]
            self._note(tensor, codes, codes)
        last = {tensor: node for node in graph.nodes for tensor in node.inputs}
        for node in graph.nodes:
            self._run(node)
            for tensor in (*node.inputs, *node.outputs):
                if last.get(tensor, node) is node:
                    self._ours.pop(tensor, None)
                    self._references.pop(tensor, None)

    def _real(self, tensor: str) -> np.ndarray | None:
        """The float tensor, in the layout of a tensor of the graph; None if there is none."""
        type = self._graph.types[tensor]
        maker = self._makers.get(tensor)
        if maker is not None and isinstance(maker.op, Reshape):
            # A float tensor is flattened in another order; that of the source is known.
            source = self._real(maker.inputs[0])
            return None if source is None else source.reshape(type.shape)
        value = self._values.get(self._names.get(tensor, ""))
        if value is None or value.dtype.kind != "f":
            return None
        if value.size != type.size:
            raise HwgenError(
                f"Tensor {tensor!r} is {type}, but {self._names[tensor]!r} of the float network "
                f"has shape {list(value.shape)}: they are not the same network"
            )
        return to_frame(value, type.shape)

    def _note(self, tensor: str, ours: np.ndarray, own: np.ndarray) -> None:
        """Keep the codes of a tensor, end to end and of its layer alone, and add them up."""
        self._ours[tensor], self._references[tensor] = ours, own
        if (value := self._real(tensor)) is not None:
            quantisation = self._graph.types[tensor].quantisation
            rounded = self._references[tensor] = quantisation.quantise(value)[None]
            self._meters.setdefault(tensor, _Meter()).add(value, quantisation, rounded, ours, own)

    def _run(self, node: Node) -> None:
        """Evaluate a node, on the inputs that it has end to end and on the float network's."""
        types = [self._graph.types[t] for t in node.inputs]
        ours = [self._ours[t] for t in node.inputs]
        references = [self._references[t] for t in node.inputs]
        exact = own = node.op.evaluate(ours, types)
        if any(a is not b for a, b in zip(ours, references, strict=True)):
            own = node.op.evaluate(references, types)
        for tensor, a, b in zip(node.outputs, exact, own, strict=True):
            self._note(tensor, a, b)
        if node.name in self._meters and isinstance(node.op, Convolution | Gemm):
            noise = _weight_noise(node.op, references[0], types[0].quantisation)
            self._meters[node.name].weights += noise * self._graph.types[node.name].size


def _row(
    graph: Graph, node: Node | None, tensor: str, float_tensor: str, meters: Mapping[str, _Meter]
) -> Row:
    meter = meters[tensor]
    op = node.op if node is not None and isinstance(node.op, Convolution | Gemm) else None
    inputs = {
        t: decibels(meters[t].signal, meters[t].rounding)
        for t in (() if node is None else node.inputs) if t in meters
    }
    return Row(
        name=tensor if node is None else node.name,
        op="Input" if node is None else type(node.op).__name__,
        tensor=tensor,
        float_tensor=float_tensor,
        bits=graph.types[tensor].bits,
        weight_bits=op and op.weight_bits,
        snr_db=decibels(meter.signal, meter.noise),
        own_db=decibels(meter.signal, meter.own),
        output_db=decibels(meter.signal, meter.rounding),
        input_db=min(inputs.values(), default=None),
        worst_input=min(inputs, key=inputs.__getitem__, default=None),
        weight_db=op and decibels(meter.signal, meter.weights),
        clipped=meter.clipped / max(1, meter.count),
        clipped_noise=meter.clipping / meter.rounding if meter.rounding else 0.0,
        spread=1.0 if op is None else _spread(op.weight),
    )


def _weight_noise(op: Convolution | Gemm, codes: np.ndarray, input: Quantisation) -> float:
    """Mean noise of an output element from weights that are off by 1/12 of a squared step each.

    It is an overestimate where most weights are rounded to 0, because their errors are smaller.
    """
    power = np.square(input.dequantise(codes)).sum(dtype=np.float64)
    step = np.ldexp(op.requantise.multiplier * op.output.scale / input.scale, -op.requantise.shift)
    # Inputs that an output element sums over, as a share of all.
    share = op.weight[0].size / codes.size
    if isinstance(op, ConvTranspose):
        share /= math.prod(op.stride)
    return float(np.square(step).mean()) / 12 * power * share


def _spread(weight: np.ndarray) -> float:
    """Largest over median peak of the input channels of weights ``(Cout, *taps, Cin)``."""
    peaks = np.abs(weight.astype(np.int64)).reshape(-1, weight.shape[-1]).max(0)
    return float(peaks.max() / max(1.0, np.median(peaks)))
