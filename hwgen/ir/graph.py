"""The integer graph: ops in topological order, the types of all tensors, and its file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hwgen.errors import HwgenError, reason
from hwgen.ir import (
    attention,
    conv,
    elementwise,
    embedding,
    matmul,
    norm,
    pool,
    recurrent,
    route,
    softmax,
)
from hwgen.ir.op import Op
from hwgen.ir.requantise import Requantise
from hwgen.ir.types import Quantisation, TensorType, whole

__all__ = ["Graph", "Node"]

FORMAT = "hwgen-graph-1"
_CLASSES = {c.__name__: c for c in (Requantise, Quantisation)} | {
    name: getattr(module, name)
    for module in (attention, conv, elementwise, embedding, matmul, norm, pool, recurrent,
                   route, softmax)
    for name in module.__all__
}


@dataclass(frozen=True, eq=False)
class Node:
    """An op between named tensors; its name is that of its first output."""

    op: Op
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.outputs[0]


@dataclass(eq=False)
class Graph:
    """Ops in topological order over named, typed tensors.

    Members
    -------
    inputs : tensor name to :class:`TensorType`
    nodes : list of :class:`Node`
    outputs : list of tensor names
    types : type of every tensor, filled as nodes are added
    meta : plain data that travels with the file (model name, input normalisation, anchors)
    """

    inputs: dict[str, TensorType] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    types: dict[str, TensorType] = field(default_factory=dict)
    meta: dict = field(default_factory=dict)

    def add_input(self, name: str, type: TensorType) -> str:
        """Declare an input tensor, and return its name."""
        self._claim(name)
        self.inputs[name] = self.types[name] = type
        return name

    def add(self, op: Op, *inputs: str, name: str) -> str:
        """Append an op with one output called ``name``, and return the name."""
        (out,) = self.add_node(op, inputs, (name,))
        return out

    def add_node(self, op: Op, inputs: Sequence[str], outputs: Sequence[str]) -> tuple[str, ...]:
        """Append an op, and return the names of its outputs.

        Raises
        ------
        :exc:`HwgenError`
            If a tensor is unknown or defined twice, or the op refuses the input types.
        """
        name = outputs[0]
        for tensor in inputs:
            if tensor not in self.types:
                raise HwgenError(f"Node {name!r} reads {tensor!r}, which nothing before it makes")
        if op.arity is not None and len(inputs) != op.arity:
            raise HwgenError(f"Node {name!r} needs {op.arity} inputs, not {len(inputs)}")
        try:
            types = op.infer(*(self.types[tensor] for tensor in inputs))
        except HwgenError as error:
            raise HwgenError(f"Node {name!r}: {error}") from None
        if len(types) != len(outputs):
            raise HwgenError(f"Node {name!r} has {len(types)} outputs, not {len(outputs)}")
        for tensor, type in zip(outputs, types, strict=True):
            self._claim(tensor)
            self.types[tensor] = type
        self.nodes.append(Node(op, tuple(inputs), tuple(outputs)))
        return tuple(outputs)

    def _claim(self, name: str) -> None:
        if name in self.types:
            raise HwgenError(f"Tensor {name!r} is defined twice")

    @property
    def macs(self) -> int:
        """Multiply-accumulates a frame."""
        return sum(n.op.macs(*(self.types[t] for t in n.inputs)) for n in self.nodes)

    def evaluate(
        self, inputs: Mapping[str, np.ndarray], *, keep: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Exact values of the outputs (or of the tensors in ``keep``) for a batch of frames.

        Parameters
        ----------
        inputs : name to integer array, shape ``(frames, *type.shape)``
        keep : tensor names, default the graph's outputs

        Returns
        -------
        :class:`dict`, name to integer array
        """
        wanted = set(self.outputs if keep is None else keep)
        if unknown := sorted(wanted - set(self.types)):
            raise HwgenError(f"The graph has no tensor {', '.join(map(repr, unknown))}")
        values: dict[str, np.ndarray] = {}
        for name, type in self.inputs.items():
            if name not in inputs:
                raise HwgenError(f"Input {name!r} is missing")
            value = whole(inputs[name], f"Input {name!r}")
            if value.shape[1:] != type.shape:
                raise HwgenError(
                    f"Input {name!r} must have shape (frames, {type.shape!r}), not {value.shape!r}"
                )
            low, high = type.quantisation.low, type.quantisation.high
            if (value < low).any() or (value > high).any():
                raise HwgenError(f"Input {name!r} must be within {low}..{high}")
            values[name] = value.astype(type.quantisation.dtype)
        last = {t: i for i, n in enumerate(self.nodes) for t in n.inputs}
        for i, node in enumerate(self.nodes):
            results = node.op.evaluate(
                [values[t] for t in node.inputs], [self.types[t] for t in node.inputs]
            )
            values.update(zip(node.outputs, results, strict=True))
            for tensor in (*node.inputs, *node.outputs):
                if last.get(tensor, -1) <= i and tensor not in wanted:
                    values.pop(tensor, None)
        return {name: values[name] for name in sorted(wanted, key=list(self.types).index)}

    def save(self, path: str | Path) -> None:
        """Write the graph to one file (a zip of arrays and a JSON header)."""
        arrays: dict[str, np.ndarray] = {}

        def plain(value):
            if isinstance(value, np.ndarray):
                arrays[key := f"a{len(arrays)}"] = value
                return {"array": key}
            if type(value).__name__ in _CLASSES:
                body = {f.name: plain(getattr(value, f.name)) for f in fields(value)}
                return {"class": type(value).__name__, **body}
            if isinstance(value, tuple | list):
                return [plain(v) for v in value]
            return value

        header = {
            "format": FORMAT,
            "inputs": {n: [t.shape, plain(t.quantisation)] for n, t in self.inputs.items()},
            "nodes": [[plain(n.op), n.inputs, n.outputs] for n in self.nodes],
            "outputs": self.outputs,
            "meta": self.meta,
        }
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        with open(path, "wb") as file:
            np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]

    @classmethod
    def load(cls, path: str | Path) -> Graph:
        """Read a file written by :meth:`save`.

        Raises
        ------
        :exc:`HwgenError`
            If the file is missing, damaged, or of another format.
        """

        def rich(value):
            if isinstance(value, dict) and "array" in value:
                return arrays[value["array"]]
            if isinstance(value, dict) and "class" in value:
                body = {k: rich(v) for k, v in value.items() if k != "class"}
                return _CLASSES[value["class"]](**body)
            if isinstance(value, list):
                return tuple(rich(v) for v in value)
            return value

        try:
            with open(path, "rb") as file, _archive(file) as arrays:
                header = json.loads(arrays["header"].tobytes())
                if header["format"] != FORMAT:
                    raise HwgenError(f"{path}: format {header['format']!r} is not {FORMAT!r}")
                graph = cls(meta=header["meta"])
                for name, (shape, quantisation) in header["inputs"].items():
                    graph.add_input(name, TensorType(shape, rich(quantisation)))
                for op, inputs, outputs in header["nodes"]:
                    graph.add_node(rich(op), inputs, outputs)
                graph.outputs = header["outputs"]
                if unknown := sorted(set(graph.outputs) - set(graph.types)):
                    raise HwgenError(f"no tensor {', '.join(map(repr, unknown))}")
        except OSError as error:
            raise HwgenError(f"{path} cannot be read: {reason(error)}") from None
        except Exception as error:
            # A damaged byte surfaces as whatever it meets first: zip, zlib, JSON, numpy, an op.
            raise HwgenError(f"{path} is not a graph file: {error}") from None
        return graph


def _archive(file: BinaryIO) -> np.lib.npyio.NpzFile:
    """The arrays of a file; anything else numpy would offer to unpickle."""
    if not zipfile.is_zipfile(file):
        raise HwgenError("it is damaged, or no .npz file")
    file.seek(0)
    return np.load(file, allow_pickle=False)
