"""Post-training quantisation: a float network and its ranges to the integer graph.

Activations are asymmetric, one scale a tensor; weights symmetric, one scale an output channel
(Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", 2018).  Scales are float32, so that an ONNX file can state them exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import onnx

from hwgen.errors import HwgenError
from hwgen.ir import (
    Add,
    AveragePool,
    Concat,
    Conv,
    Gemm,
    GlobalAveragePool,
    Graph,
    MaxPool,
    Quantisation,
    Requantise,
    Resize,
    Split,
    Table,
    TensorType,
)
from hwgen.ir.ops import Pads
from models.onnx_import import Network, attributes
from models.regions import ELEMENTWISE, Regions

__all__ = ["quantise"]

Ranges = dict[str, tuple[float, float]]


def quantise(
    network: Network, ranges: Ranges, weight_bits: int = 8, activation_bits: int = 8
) -> Graph:
    """The integer graph of a float network.

    Parameters
    ----------
    network : :class:`models.onnx_import.Network`
    ranges : tensor name to (smallest, largest) value
    weight_bits, activation_bits : 2..8; the input image keeps 8 bits

    Raises
    ------
    :exc:`HwgenError`
        If an op, or a form of it, is not supported; the node is named.
    """
    return _Quantiser(network, ranges, weight_bits, activation_bits).graph


class _Quantiser:
    """Walks over the nodes of a network and adds their integer ops to a graph."""

    def __init__(self, network: Network, ranges: Ranges, weight_bits: int, bits: int) -> None:
        self.network, self.ranges = network, ranges
        self.weight_bits, self.bits = weight_bits, bits
        self.regions = Regions(network)
        self.graph = Graph()
        self.names: dict[str, str] = {}
        self._taken: set[str] = set()
        self._flat: dict[str, tuple[int, ...]] = {}
        self._clamped: dict[str, str] = {}
        self._share_ranges()
        self._find_clamps()
        for name in network.inputs:
            shape = network.shapes[name]
            self.names[name] = self.graph.add_input(
                self._safe(name), TensorType(_channels_last(shape), self._input(name))
            )
        for node in network.nodes:
            self._convert(node)
        for name in network.outputs:
            self.graph.outputs.append(self._tensor(name))

    # Names and quantisations

    def _safe(self, name: str) -> str:
        """A name of letters, digits and single underscores, not yet taken."""
        name = re.sub(r"(_output_\d+|/(Conv|Mul)(_output_\d+)?)$", "", name)
        base = re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_").lower() or "tensor"
        base = base if base[0].isalpha() else f"t{base}"
        unique, k = base, 1
        while unique in self._taken:
            k += 1
            unique = f"{base}_{k}"
        self._taken.add(unique)
        return unique

    def _input(self, name: str) -> Quantisation:
        """Images in 0..1 are uint8 / 255 exactly; other inputs are calibrated."""
        low, high = self.ranges[name]
        if low >= 0 and high <= 1:
            return Quantisation(float(np.float32(1 / 255)), -128, 8)
        return self._quantisation(name)

    def _quantisation(self, name: str) -> Quantisation:
        """Asymmetric quantisation of the calibrated range, zero included."""
        low, high = self.ranges[self._group.get(name, name)]
        low, high = min(low, 0.0), max(high, 0.0)
        steps = (1 << self.bits) - 1
        scale = float(np.float32((high - low) / steps)) or 1.0
        bottom = -(1 << (self.bits - 1))
        zero = int(np.clip(round(bottom - low / scale), bottom, bottom + steps))
        return Quantisation(scale, zero, self.bits)

    def _share_ranges(self) -> None:
        """Tensors that a Concat joins, or that keep their quantisation, get one range."""
        self._group: dict[str, str] = {}

        def find(name: str) -> str:
            while name in self._group:
                name = self._group[name]
            return name

        keep = {"Concat", "MaxPool", "Resize", "Upsample", "Split"}
        for node in self.network.nodes:
            if node.op_type in keep:
                live = [i for i in node.input if i and i not in self.network.constants]
                live = [i for i in live if i not in self.network.inputs]
                members = [*live, *node.output]
                for other in members[1:]:
                    a, b = find(members[0]), find(other)
                    if a != b:
                        self._group[b] = a
        for name in list(self.ranges):
            root = find(name)
            if root != name:
                low, high = self.ranges[name]
                self.ranges[root] = (
                    min(low, self.ranges[root][0]), max(high, self.ranges[root][1])
                )
        self._group = {name: find(name) for name in self._group}

    def _find_clamps(self) -> None:
        """A ReLU that alone reads a convolution is the saturation of its output."""
        for tensor, source in self.regions.source.items():
            users = self.network.users.get(source, [])
            maker = [n for n in self.network.nodes if source in n.output]
            if (len(users) == 1 and source not in self.network.outputs and maker
                    and maker[0].op_type in ("Conv", "Gemm", "MatMul", "Add")
                    and source not in self.regions.source and self.regions.is_clamp(tensor)):
                self._clamped[source] = tensor

    def _output(self, node: onnx.NodeProto) -> tuple[str, Quantisation]:
        """Name and quantisation of what a node makes; past a clamp that it takes over."""
        name = self._clamped.get(node.output[0], node.output[0])
        return name, self._quantisation(name)

    def _tensor(self, name: str) -> str:
        """The integer tensor of a float one; tables are made when first asked for."""
        if name in self.names:
            return self.names[name]
        root = self.regions.source.get(name)
        if root is None:
            raise HwgenError(f"Tensor {name!r} is made by nothing that is supported")
        source = self._tensor(root)
        quantisation = self.graph.types[source].quantisation
        codes = np.arange(quantisation.low, quantisation.high + 1)
        real = self.regions.apply(name, quantisation.dequantise(codes))
        output = self._quantisation(name)
        self.names[name] = self.graph.add(
            Table(output.quantise(real), output), source, name=self._safe(name)
        )
        return self.names[name]

    # Nodes

    def _convert(self, node: onnx.NodeProto) -> None:
        out = node.output[0]
        if out in self.regions.source:
            # Made when used: what is only part of a larger region never is.
            return
        if node.op_type in ("Flatten", "Reshape", "Squeeze"):
            self._flatten(node)
            return
        handler: Callable[[onnx.NodeProto], None] | None = getattr(
            self, f"_on_{node.op_type.lower()}", None
        )
        label = node.name or out
        if handler is None:
            supported = sorted(
                {n[4:] for n in dir(self) if n.startswith("_on_")}
                | {n.lower() for n in ELEMENTWISE}
            )
            raise HwgenError(
                f"Node {label!r}: op {node.op_type!r} is not supported here; supported are "
                f"{', '.join(supported)}"
            )
        try:
            handler(node)
        except HwgenError as error:
            text = str(error)
            raise HwgenError(
                text if text.startswith("Node ") else f"Node {label!r} ({node.op_type}): {error}"
            ) from None

    def _add(self, node: onnx.NodeProto, op, inputs: list[str]) -> None:
        """Add an op with one output, named after the tensor it makes."""
        name, _ = self._output(node)
        self.names[name] = self.graph.add(op, *inputs, name=self._safe(name))

    def _weights(self, name: str) -> np.ndarray:
        if name not in self.network.constants:
            raise HwgenError(f"weights {name!r} must be constant")
        return self.network.constants[name].astype(np.float64)

    def _scaled(
        self, weight: np.ndarray, bias: np.ndarray | None, source: str, output: Quantisation
    ) -> tuple[np.ndarray, np.ndarray, Requantise]:
        """Integer weights (output channels first), bias with the zero-point term, multipliers."""
        quantisation = self.graph.types[source].quantisation
        flat = weight.reshape(len(weight), -1)
        limit = (1 << (self.weight_bits - 1)) - 1
        scale = np.float32(np.abs(flat).max(1) / limit).astype(np.float64)
        scale[scale == 0] = 1.0
        integers = np.clip(np.rint(flat / scale[:, None]), -limit, limit).astype(np.int64)
        real = np.zeros(len(weight)) if bias is None else bias
        product = scale * quantisation.scale
        bias_int = np.clip(np.rint(real / product), -(2.0**31), 2.0**31 - 1).astype(np.int64)
        folded = bias_int - quantisation.zero_point * integers.sum(1)
        return (integers.reshape(weight.shape), folded,
                Requantise.from_scale(product / output.scale))

    def _on_conv(self, node: onnx.NodeProto) -> None:
        at = attributes(node)
        weight = self._weights(node.input[1])
        bias = self._weights(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        source = self._tensor(node.input[0])
        kernel, spatial = weight.shape[2:], self.graph.types[source].spatial
        if any(d != 1 for d in at.get("dilations", ())):
            raise HwgenError(f"dilations {at['dilations']} are not supported")
        stride = tuple(at.get("strides", (1,) * len(kernel)))
        _, output = self._output(node)
        integers, folded, requantise = self._scaled(weight, bias, source, output)
        self._add(node, Conv(
            np.moveaxis(integers, 1, -1), folded, requantise, output, stride,
            _pads(at, kernel, stride, spatial), int(at.get("group", 1)), self.weight_bits,
        ), [source])

    def _on_gemm(self, node: onnx.NodeProto) -> None:
        at = attributes(node)
        if at.get("alpha", 1.0) != 1.0 or at.get("beta", 1.0) != 1.0 or at.get("transA"):
            raise HwgenError("only alpha = beta = 1 and transA = 0 are supported")
        weight = self._weights(node.input[1])
        bias = self._weights(node.input[2]) if len(node.input) > 2 else None
        self._dense(node, weight if at.get("transB") else weight.T, bias)

    def _on_matmul(self, node: onnx.NodeProto) -> None:
        weight = self._weights(node.input[1])
        if weight.ndim != 2:
            raise HwgenError(f"weights must be a matrix, not of shape {weight.shape}")
        self._dense(node, weight.T, None)

    def _dense(self, node: onnx.NodeProto, weight: np.ndarray, bias: np.ndarray | None) -> None:
        name = node.input[0]
        source = self._tensor(name)
        shape = self._flat.get(name)
        if shape is not None:
            # ONNX flattens channels first, a stream has them last.
            order = np.arange(weight.shape[1]).reshape(shape)
            weight = weight[:, np.moveaxis(order, 0, -1).ravel()]
        if bias is not None:
            bias = np.broadcast_to(bias.ravel(), (len(weight),))
        _, output = self._output(node)
        integers, folded, requantise = self._scaled(weight, bias, source, output)
        self._add(node, Gemm(integers, folded, requantise, output, self.weight_bits), [source])

    def _flatten(self, node: onnx.NodeProto) -> None:
        """A flattening is resolved by the Gemm behind it."""
        before, after = (self.network.shapes[n] for n in (node.input[0], node.output[0]))
        if len(after) != 2 or after[0] != 1:
            raise HwgenError(
                f"Node {node.name or node.output[0]!r}: {node.op_type} from {before} to {after} is "
                f"not supported; only flattening in front of a Gemm is"
            )
        self.names[node.output[0]] = self._tensor(node.input[0])
        self._flat[node.output[0]] = before[1:]

    def _on_maxpool(self, node: onnx.NodeProto) -> None:
        kernel, stride, pads = self._pool(node)
        self._add(node, MaxPool(kernel, stride, pads), [self._tensor(node.input[0])])

    def _on_averagepool(self, node: onnx.NodeProto) -> None:
        kernel, stride, pads = self._pool(node)
        if any(any(p) for p in pads) and not attributes(node).get("count_include_pad", 0):
            raise HwgenError("padding with count_include_pad = 0 is not supported")
        self._average(node, lambda r, q: AveragePool(kernel, r, q, stride, pads),
                      int(np.prod(kernel)))

    def _average(self, node: onnx.NodeProto, make: Callable, count: int) -> None:
        source = self._tensor(node.input[0])
        _, output = self._output(node)
        ratio = self.graph.types[source].scale / output.scale / count
        self._add(node, make(Requantise.from_scale(ratio), output), [source])

    def _on_globalaveragepool(self, node: onnx.NodeProto) -> None:
        spatial = self.network.shapes[node.input[0]][2:]
        self._average(node, GlobalAveragePool, int(np.prod(spatial)))

    def _on_reducemean(self, node: onnx.NodeProto) -> None:
        at, rank = attributes(node), len(self.network.shapes[node.input[0]])
        axes = at.get("axes")
        if axes is None and len(node.input) > 1:
            axes = self._weights(node.input[1]).astype(int).tolist()
        if sorted(a % rank for a in axes or ()) != list(range(2, rank)):
            raise HwgenError("only the mean over all spatial dimensions is supported")
        if not at.get("keepdims", 1):
            self._flat[node.output[0]] = (*self.network.shapes[node.input[0]][1:2],) + (1,) * (
                rank - 2
            )
        self._on_globalaveragepool(node)

    def _pool(self, node: onnx.NodeProto) -> tuple[tuple[int, ...], tuple[int, ...], Pads]:
        at = attributes(node)
        kernel = tuple(at["kernel_shape"])
        stride = tuple(at.get("strides", (1,) * len(kernel)))
        if any(d != 1 for d in at.get("dilations", ())):
            raise HwgenError(f"dilations {at['dilations']} are not supported")
        spatial = self.network.shapes[node.input[0]][2:]
        pads = _pads(at, kernel, stride, spatial)
        if at.get("ceil_mode"):
            want = self.network.shapes[node.output[0]][2:]
            pads = tuple(
                (a, max(b, (w - 1) * s + k - n - a))
                for (a, b), w, s, k, n in zip(pads, want, stride, kernel, spatial, strict=True)
            )
        return kernel, stride, pads

    def _on_add(self, node: onnx.NodeProto) -> None:
        if any(i in self.network.constants for i in node.input):
            raise HwgenError("adding a constant tensor is not supported, only a scalar")
        a, b = (self._tensor(i) for i in node.input)
        _, output = self._output(node)
        types = self.graph.types
        self._add(node, Add.from_types(types[a].quantisation, types[b].quantisation, output),
                  [a, b])

    def _on_concat(self, node: onnx.NodeProto) -> None:
        if attributes(node)["axis"] % len(self.network.shapes[node.output[0]]) != 1:
            raise HwgenError("only the concatenation of channels is supported")
        _, output = self._output(node)
        inputs = []
        for name in node.input:
            tensor = self._tensor(name)
            have = self.graph.types[tensor].quantisation
            if have != output:
                table = Table.from_function(lambda v: v, have, output)
                tensor = self.graph.add(table, tensor, name=self._safe(f"{tensor}_rescaled"))
            inputs.append(tensor)
        self._add(node, Concat(), inputs)

    def _on_split(self, node: onnx.NodeProto) -> None:
        if attributes(node).get("axis", 0) % len(self.network.shapes[node.input[0]]) != 1:
            raise HwgenError("only the split of channels is supported")
        sizes = tuple(self.network.shapes[o][1] for o in node.output)
        names = [self._safe(o) for o in node.output]
        self.graph.add_node(Split(sizes), [self._tensor(node.input[0])], names)
        self.names.update(zip(node.output, names, strict=True))

    def _on_resize(self, node: onnx.NodeProto) -> None:
        at = attributes(node)
        before, after = (self.network.shapes[n] for n in (node.input[0], node.output[0]))
        mode = at.get("mode", b"nearest").decode()
        transform = at.get("coordinate_transformation_mode", b"half_pixel").decode()
        rounding = at.get("nearest_mode", b"round_prefer_floor").decode()
        factors = tuple(a // b for a, b in zip(after[2:], before[2:], strict=True))
        whole = all(a == b * f for a, b, f in zip(after[2:], before[2:], factors, strict=True))
        plain = (transform, rounding) == ("asymmetric", "floor") or transform == "half_pixel"
        if mode != "nearest" or not whole or not plain:
            raise HwgenError(
                f"only nearest enlargement by whole factors is supported, not {mode} from "
                f"{before} to {after} ({transform}, {rounding})"
            )
        self._add(node, Resize(factors), [self._tensor(node.input[0])])

    def _on_upsample(self, node: onnx.NodeProto) -> None:
        at = attributes(node)
        before, after = (self.network.shapes[n] for n in (node.input[0], node.output[0]))
        factors = tuple(a // b for a, b in zip(after[2:], before[2:], strict=True))
        if at.get("mode", b"nearest") != b"nearest":
            raise HwgenError("only nearest enlargement is supported")
        self._add(node, Resize(factors), [self._tensor(node.input[0])])


def _channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[2:], shape[1]) if len(shape) > 1 else shape


def _pads(
    at: dict, kernel: tuple[int, ...], stride: tuple[int, ...], spatial: tuple[int, ...]
) -> Pads:
    """Padding of an ONNX node as (before, after) per dimension."""
    auto = at.get("auto_pad", b"NOTSET").decode()
    rank = len(kernel)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = []
        for n, k, s in zip(spatial, kernel, stride, strict=True):
            total = max((-(-n // s) - 1) * s + k - n, 0)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if auto == "SAME_UPPER" else (large, small))
        return tuple(pads)
    flat = at.get("pads", (0,) * (2 * rank)) if auto == "NOTSET" else (0,) * (2 * rank)
    return tuple(zip(flat[:rank], flat[rank:], strict=True))
