"""Layers of a float network replaced by the layers that they decompose into."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwgen.errors import HwgenError, naming
from hwgen.models.compression import lowrank
from hwgen.models.compression.decomposition import Decomposition, Stage, cost, plan
from hwgen.models.compression.itera import iterate
from hwgen.models.compression.layers import FloatLayer, find, read_layer
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import attributes
from hwgen.models.onnx.quantisers import CodedConstant

__all__ = ["Factor", "decompose", "factorise", "reconstruct", "squared_error"]


@dataclass(frozen=True, eq=False)
class Factor:
    """One of the layers in a row, with its weights.

    Members
    -------
    stage : its shape and groups
    weight : float32, of the stage's shape
    coded : its integers and scales, if it was found in integers
    """

    stage: Stage
    weight: np.ndarray
    coded: CodedConstant | None = None


def factorise(
    weight: np.ndarray, decomposition: Decomposition
) -> tuple[tuple[Factor, ...], ...]:
    """The weights of the layers of each branch; branches are added.

    Parameters
    ----------
    weight : shape ``(F, C, *kernel)``
    decomposition : of it

    Raises
    ------
    :exc:`HwgenError`
        If it is not possible for weights of this shape.
    """
    left = np.asarray(weight, np.float64)
    branches = []
    for stages, choice in zip(
        plan(left.shape, decomposition), (decomposition, decomposition.residual)
    ):
        assert choice is not None
        factors = tuple(_factors(left, choice, stages))
        branches.append(factors)
        left = left - reconstruct((factors,))
    return tuple(branches)


def reconstruct(branches: tuple[tuple[Factor, ...], ...]) -> np.ndarray:
    """The weights ``(F, C, *kernel)``, float64, of the one layer that all branches amount to."""
    parts = [lowrank.compose([f.stage for f in branch], [f.weight for f in branch])
             for branch in branches]
    return np.sum(parts, axis=0)


def squared_error(weight: np.ndarray, decomposition: Decomposition) -> float:
    """What a decomposition loses: squared Frobenius norm, relative to that of the weights.

    Raises
    ------
    :exc:`HwgenError`
        If it is not possible for weights of this shape.
    """
    lost = weight - reconstruct(factorise(weight, decomposition))
    return float(np.square(lost).sum() / (np.square(weight, dtype=np.float64).sum() or 1.0))


def decompose(
    network: Network, choices: Mapping[str, Decomposition], allow_growth: bool = False
) -> Network:
    """A network with some layers replaced by the layers of their decompositions.

    It computes what the network would with the weights of these layers replaced by those of
    :func:`reconstruct`.  Layers are Conv of one group, in any number of dimensions and with any
    strides, pads and dilation, Gemm, and MatMul with a constant matrix on its right; weights
    that several nodes share are replaced only where named.  New nodes have the layer's name with
    ``/1``, ``/2``, ... behind it (``/a1``, ``/b1``, ..., ``/sum`` with two branches), for precision
    files; the bias stays with the first branch's last one.  Integer factors
    (:attr:`~hwgen.models.compression.decomposition.Decomposition.bits`) are marked as a file's own:
    they are used as they are, whatever the precision, and equalisation leaves them alone.

    Parameters
    ----------
    network : :class:`hwgen.models.onnx.network.Network`, left as it is
    choices : decomposition by name of a node, or of its output
    allow_growth : layers may get more weights or MACs than they had

    Raises
    ------
    :exc:`HwgenError`
        If a layer is unknown, cannot be decomposed so, or would not become smaller.
    """
    found: dict[str, Decomposition] = {}
    for name, choice in choices.items():
        output = find(network, name).output[0]
        if output in found:
            raise HwgenError(f"Layer {name!r} is decomposed twice: by its name and its output")
        found[output] = choice
    edit = _Edit(network)
    for node in network.nodes:
        choice = found.get(node.output[0])
        if choice is None:
            continue
        layer = read_layer(network, node)
        if not allow_growth:
            _check_smaller(layer, choice)
        with naming(f"Layer {layer.name!r}"):
            edit.replace(node, layer, factorise(layer.weight, choice))
    return edit.finish()


def _check_smaller(layer: FloatLayer, choice: Decomposition) -> None:
    before, after = cost(layer), cost(layer, choice)
    for what in ("parameters", "macs"):
        old, new = getattr(before, what), getattr(after, what)
        if new >= old:
            raise HwgenError(
                f"Layer {layer.name!r}: {choice.scheme} of rank {choice.rank} takes {new:,} "
                f"{what}, the layer itself {old:,}: choose a lower rank, more groups or less "
                f"density, or allow growth"
            )


def _factors(
    weight: np.ndarray, choice: Decomposition, stages: tuple[Stage, ...]
) -> Iterator[Factor]:
    if choice.scheme == "sparse":
        kept = lowrank.largest(weight, stages[0].nonzero)
        yield Factor(stages[0], kept.astype(np.float32))
    elif choice.scheme == "cpd":
        wide = [k for k, extent in enumerate(weight.shape) if k < 2 or extent > 1]
        output, input, *depthwise = lowrank.cpd(
            weight.reshape([weight.shape[k] for k in wide]), choice.rank, choice.seed)
        for stage, factor in zip(stages, (input.T, *(f.T for f in depthwise), output), strict=True):
            yield Factor(stage, factor.reshape(stage.shape).astype(np.float32))
    elif choice.bits is None:
        second, first = lowrank.svd(
            lowrank.unfold(weight, choice.scheme, choice.groups), choice.rank)
        yield Factor(stages[0], lowrank.fold_first(first, stages[0]).astype(np.float32))
        yield Factor(stages[1], lowrank.fold_second(second, stages[1], choice.scheme)
                     .astype(np.float32))
    else:
        yield from _integer_factors(weight, choice, stages)


def _integer_factors(
    weight: np.ndarray, choice: Decomposition, stages: tuple[Stage, ...]
) -> Iterator[Factor]:
    """The factors of an SVD scheme in integers, found rank by rank."""
    assert choice.bits is not None
    matrices = lowrank.unfold(weight, choice.scheme, choice.groups)
    taps = math.prod(stages[1].shape[2:])
    if choice.scheme == "svd_first":
        # Each group has output channels of its own.
        pairs = [iterate(m, choice.rank, choice.bits, taps) for m in matrices]
    else:
        pairs = [iterate(np.hstack(list(matrices)), choice.rank, choice.bits, taps, choice.groups)]
    first = np.concatenate([pair.first for pair in pairs])
    first_scale = np.concatenate([pair.first_scale for pair in pairs])
    second_scale = np.concatenate([pair.second_scale for pair in pairs])
    second = np.stack([part for pair in pairs for part in np.hsplit(pair.second, pair.groups)])
    yield _coded(stages[0], lowrank.fold_first(first, stages[0]), first_scale)
    yield _coded(stages[1], lowrank.fold_second(second, stages[1], choice.scheme), second_scale)


def _coded(stage: Stage, integers: np.ndarray, scale: np.ndarray) -> Factor:
    spread = np.broadcast_to(scale.reshape(-1, *(1,) * (integers.ndim - 1)), integers.shape)
    return Factor(stage, (integers * spread).astype(np.float32),
                  CodedConstant(integers.astype(np.int64), np.ascontiguousarray(spread)))


class _Edit:
    """Collects the new nodes and constants of a network."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.nodes: dict[str, list[onnx.NodeProto]] = {}
        """By output, the nodes that take the place of the one that makes it."""
        self.constants: dict[str, np.ndarray] = {}
        self.weights: dict[str, CodedConstant] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        graph = network.model.graph
        self.taken = {*network.shapes, *network.constants}
        self.taken |= {name for n in graph.node for name in (n.name, *n.output)}
        self.taken |= {value.name for value in graph.initializer}

    def replace(
        self, node: onnx.NodeProto, layer: FloatLayer, branches: tuple[tuple[Factor, ...], ...]
    ) -> None:
        """Put the layers of the branches in the place of a node."""
        new: list[onnx.NodeProto] = []
        ends = []
        for k, factors in enumerate(branches):
            prefix = f"{layer.name}/" if len(branches) == 1 else f"{layer.name}/{'ab'[k]}"
            tensor, shape = node.input[0], list(self.network.shapes[node.input[0]])
            for step, factor in enumerate(factors, 1):
                last = step == len(factors)
                name = self._fresh(f"{prefix}{step}")
                output = node.output[0]
                if not last or len(branches) > 1:
                    output = self._fresh(f"{name}_output")
                new.append(self._node(node, layer, factor, name, tensor, output,
                                      last, last and k == 0))
                shape = self._shape(layer, factor.stage, shape)
                self.shapes[output] = tuple(shape)
                tensor = output
            ends.append(tensor)
        if len(ends) > 1:
            name = self._fresh(f"{layer.name}/sum")
            new.append(helper.make_node("Add", ends, [node.output[0]], name=name))
        self.nodes[node.output[0]] = new

    def finish(self) -> Network:
        """The network with all replacements."""
        network = self.network
        model = onnx.ModelProto()
        model.CopyFrom(network.model)
        graph = model.graph
        nodes = [new for node in graph.node for new in self.nodes.get(node.output[0], [node])]
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(nodes)
        read = {name for node in nodes for name in node.input}
        read |= {value.name for value in graph.output}
        # Only what a replaced node read may have lost its last reader.
        gone = {name for node in network.model.graph.node if node.output[0] in self.nodes
                for name in node.input} - read
        kept = [value for value in graph.initializer if value.name not in gone]
        kept += [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        known = {*network.shapes}
        graph.value_info.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in self.shapes.items() if name not in known)
        constants = {n: v for n, v in network.constants.items() if n not in gone}
        return replace(
            network, model=model,
            nodes=[new for node in network.nodes for new in self.nodes.get(node.output[0], [node])],
            constants={**constants, **self.constants}, shapes={**network.shapes, **self.shapes},
            weights={**network.weights, **self.weights}, users={},
        )

    def _node(
        self, node: onnx.NodeProto, layer: FloatLayer, factor: Factor, name: str, tensor: str,
        output: str, last: bool, biased: bool,
    ) -> onnx.NodeProto:
        weight, coded = factor.weight, factor.coded
        # Products with a matrix have it the way their node has.
        turned = layer.kind == "MatMul"
        constant = self._fresh(f"{name}_weight")
        self.constants[constant] = np.ascontiguousarray(weight.T if turned else weight)
        if coded is not None:
            self.weights[constant] = coded.mapped(np.transpose) if turned else coded
        inputs = [tensor, constant, *(node.input[2:] if biased else ())]
        at: dict = {}
        if layer.kind == "Gemm":
            at["transB"] = 1
            if last:
                at |= {k: v for k, v in attributes(node).items() if k in ("alpha", "beta")}
        elif layer.kind == "Conv":
            own = factor.stage.axes
            rank = len(layer.stride)
            pads = [layer.pads[k] if k in own else (0, 0) for k in range(rank)]
            at = {
                "kernel_shape": list(factor.stage.shape[2:]), "group": factor.stage.groups,
                "strides": [layer.stride[k] if k in own else 1 for k in range(rank)],
                "dilations": [layer.dilation[k] if k in own else 1 for k in range(rank)],
                "pads": [before for before, _ in pads] + [after for _, after in pads],
            }
        return helper.make_node(layer.kind, inputs, [output], name=name, **at)

    def _shape(self, layer: FloatLayer, stage: Stage, shape: list[int]) -> list[int]:
        """Shape behind a layer, from that before it."""
        if layer.kind != "Conv":
            return [*shape[:-1], stage.shape[0]]
        spatial = [layer.outputs[k] if k in stage.axes else n for k, n in enumerate(shape[2:])]
        return [shape[0], stage.shape[0], *spatial]

    def _fresh(self, name: str) -> str:
        unique, k = name, 1
        while unique in self.taken:
            k += 1
            unique = f"{name}_{k}"
        self.taken.add(unique)
        return unique
