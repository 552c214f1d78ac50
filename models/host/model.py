"""What is left to the host: to move and rank data behind the last weights, as the file lays it out.

A file's network is divided into what the accelerator computes and what the host does with its
outputs.  The host's part is written as ``host.onnx``: the accelerator's outputs go in as it sends
them, integers and channels last, and the file's own outputs come out.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from hwgen.errors import HwgenWarning, reason
from hwgen.ir import Graph, TensorType
from hwgen.models.lowering.layout import View
from hwgen.models.onnx.division import Host
from hwgen.models.onnx.nodes import attributes, reads, rename

__all__ = ["host_model", "input_name", "left_to_host", "matching"]

OWN = "host."
"""Prefix of the names that no file gave."""


def input_name(tensor: str) -> str:
    """What ``host.onnx`` calls an output of the accelerator."""
    return f"{tensor}_codes"


class _Writer:
    """Collects the nodes and constants of the host's part."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def op(self, kind: str, *inputs: str, out: str = "", name: str = "", **attributes) -> str:
        number = f"{OWN}{len(self.nodes)}"
        out, name = out or number, name or number
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=name, **attributes))
        return out

    def constant(self, value, dtype) -> str:
        name = f"{OWN}constant.{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name


def host_model(
    model: onnx.ModelProto, host: Host, constants: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]], views: Mapping[str, View], graph: Graph,
) -> onnx.ModelProto:
    """The host's part as an ONNX model, from the accelerator's outputs to those of the file.

    Parameters
    ----------
    model : the file's network, for its operator sets
    host : what is the host's
    constants, shapes : of the network
    views : per output of the network, which elements of the integer graph's outputs it holds
    graph : the integer graph

    Returns
    -------
    :class:`onnx.ModelProto`
        Its inputs are the outputs of ``graph``, in their order, each called
        :func:`input_name`: codes as the accelerator sends them, shape ``(1, *type.shape)``.
    """
    writer = _Writer()
    # What a file gives in another type is float up to the last.
    real = {name: f"{name}.real" for name in host.typed}
    for name, view in views.items():
        type = graph.types[view.tensor]
        value = _real(writer, input_name(view.tensor), type)
        _in_layout(writer, value, type, view.positions, shapes[name], host.kinds.get(name),
                   real.get(name, name))
    for node in host.nodes:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        rename(copy, real)
        writer.nodes.append(copy)
    for name, node in host.typed.items():
        called = {} if node.op_type == "Cast" else {"name": name}
        writer.op(node.op_type, real[name], *node.input[1:], out=name, **called,
                  **attributes(node))
    used = {i for n in writer.nodes for i in reads(n)}
    initializers = [
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in {**constants, **writer.constants}.items() if name in used
    ]
    inputs = []
    for name in graph.outputs:
        type = graph.types[name]
        kind = TensorProto.INT8 if type.bits <= 8 else TensorProto.INT16
        inputs.append(helper.make_tensor_value_info(input_name(name), kind, [1, *type.shape]))
    made = helper.make_model(
        helper.make_graph(writer.nodes, "host", inputs, list(host.outputs), initializers),
        opset_imports=model.opset_import,
    )
    made.ir_version = model.ir_version
    return made


def matching(path: Path, graph: Graph) -> onnx.ModelProto | None:
    """The host's part that a file holds, for a graph; None if there is no such file.

    A file that cannot be read, or that goes with another graph, gives None and a
    :exc:`HwgenWarning`.
    """
    if not path.exists():
        return None
    try:
        model = onnx.load(path)
        have = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
                for value in model.graph.input}
    except OSError as error:
        warnings.warn(f"{path} cannot be read and is left out: {reason(error)}", HwgenWarning,
                      stacklevel=2)
        return None
    except DecodeError:
        warnings.warn(f"{path} is not an ONNX file and is left out", HwgenWarning, stacklevel=2)
        return None
    wanted = {input_name(name): [1, *graph.types[name].shape] for name in graph.outputs}
    if have != wanted:
        warnings.warn(f"{path} does not take the outputs of this graph and is left out",
                      HwgenWarning, stacklevel=2)
        return None
    return model


def left_to_host(model: onnx.ModelProto) -> list[dict[str, str]]:
    """The nodes of the file in ``host.onnx``, without those that only bring codes into its layout.

    Returns
    -------
    plain data for ``report.json``: the op and the name of each node
    """
    return [
        {"op": node.op_type, "name": node.name or node.output[0]}
        for node in model.graph.node
        if not node.name.startswith(OWN)
    ]


def _real(writer: _Writer, codes: str, type: TensorType) -> str:
    """Write the real values of codes, in ops that every operator set has."""
    wide = writer.op("Cast", codes, to=TensorProto.FLOAT)
    centred = writer.op("Sub", wide, writer.constant(type.zero_point, np.float32))
    return writer.op("Mul", centred, writer.constant(type.scale, np.float32))


def _in_layout(
    writer: _Writer, value: str, type: TensorType, positions: np.ndarray | None,
    shape: tuple[int, ...], kind: int | None, out: str,
) -> None:
    """Write the tensor of the file that a frame of a stream holds."""
    rank = len(type.shape)
    axis: int | None = 1
    if positions is not None:
        flat = positions.ravel()
        frame = np.arange(type.size).reshape(1, *type.shape)
        axis = next((a for a in range(rank, 0, -1)
                     if np.array_equal(np.moveaxis(frame, -1, a).ravel(), flat)), None)
        if axis is None:
            value = writer.op("Reshape", value, writer.constant([type.size], np.int64))
            value = writer.op("Gather", value, writer.constant(flat, np.int64), name=out)
    if axis is not None and axis < rank:
        value = writer.op("Transpose", value, perm=[*range(axis), rank, *range(axis, rank)])
    last = {} if kind else {"out": out}
    value = writer.op("Reshape", value, writer.constant(shape, np.int64), **last)
    if kind:
        writer.op("Cast", value, to=kind, out=out)
