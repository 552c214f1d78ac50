"""Weights that lie in files beside an ONNX file (external data), read into the model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import onnx
from onnx import TensorProto, helper

from hwgen.errors import HwgenError, reason

__all__ = ["embed"]

LIMIT = 1 << 31
"""Bytes that an ONNX model cannot hold by itself: protobuf has no longer messages."""


def embed(model: onnx.ModelProto, name: str, path: Path | None) -> None:
    """Read the tensors of a model that lie outside of it.

    Parameters
    ----------
    model : changed
    name : what errors call it
    path : the model's file; None if it came from none
        Data files lie beside it, or, if it is a link, beside the file that it leads to.

    Raises
    ------
    :exc:`HwgenError`
        If a data file is missing, too short or outside of the model's folder; it is named.
    """
    outside = [t for t in _tensors(model.graph) if t.data_location == TensorProto.EXTERNAL]
    outside += [t for f in model.functions for n in f.node for t in _of_node(n)
                if t.data_location == TensorProto.EXTERNAL]
    if sum(_size(tensor, name) for tensor in outside) >= LIMIT:
        raise HwgenError(f"{name}: its constants take 2 GiB or more, which is too large: "
                         f"export a smaller network")
    for tensor in outside:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        tensor.raw_data = _read(tensor, name, path, entries)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """All constants of a graph, those of its nodes and their graphs too."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _of_node(node)


def _of_node(node: onnx.NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            yield from _tensors(graph)


def _size(tensor: TensorProto, name: str) -> int:
    """Bytes that a tensor takes."""
    kind = tensor.data_type
    if kind in (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1):
        return (math.prod(tensor.dims) + 1) // 2
    try:
        return math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(kind).itemsize
    except KeyError:
        raise HwgenError(f"{name}: constant {tensor.name!r} lies outside of the file, but has no "
                         f"known type: export it again") from None


def _read(
    tensor: TensorProto, name: str, path: Path | None, entries: dict[str, str]
) -> bytes:
    """The bytes of a tensor that lies outside of its model."""
    what = f"{name}: constant {tensor.name!r}"
    location = entries.get("location", "")
    if path is None:
        raise HwgenError(f"{what} lies in the file {location!r}: give the model by its path")
    inner = PurePosixPath(location)
    if not location or inner.is_absolute() or ".." in inner.parts:
        raise HwgenError(f"{what} lies in {location!r}, which is no file in the model's folder: "
                         f"save the model again, with its data beside it")
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", _size(tensor, name)))
    except ValueError:
        offset = length = -1
    if not 0 <= offset < LIMIT**2 or length != _size(tensor, name):
        raise HwgenError(f"{what} of {list(tensor.dims)} takes {_size(tensor, name)} bytes, but "
                         f"the file says {entries.get('length')!r} from {entries.get('offset')!r} "
                         f"on: export it again")
    file = path.parent / inner
    if not file.exists() and path.is_symlink():
        file = path.resolve().parent / inner
    try:
        with open(file, "rb") as stream:
            stream.seek(offset)
            data = stream.read(length)
    except FileNotFoundError:
        raise HwgenError(f"{what} lies in {file}, which is missing: put that file beside the "
                         f"model, under the name that it was exported with") from None
    except OSError as error:
        raise HwgenError(f"{what} lies in {file}, which cannot be read: {reason(error)}") from None
    if len(data) < length:
        raise HwgenError(f"{what} lies in {file}, which ends before it: copy that file again")
    return data
