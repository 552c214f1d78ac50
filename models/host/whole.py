"""The file's whole network in float, as it travels with a build: what onnxruntime computes of it.

It takes what the file takes, one frame at a time and as float32 (for integers, what they stand
for), and gives the file's own outputs, with their types.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper

from hwgen.errors import HwgenError, HwgenWarning, reason
from hwgen.models.host.inputs import Input
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import attributes
from hwgen.models.onnx.session import session

__all__ = ["WholeNetwork", "float_model", "matching"]


def float_model(network: Network) -> onnx.ModelProto:
    """A network as it was read, the host's part included, with the outputs that the file has."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    del model.graph.output[:]
    model.graph.output.extend(network.host.outputs)
    if typed := network.host.typed:
        # What a file gives in another type is float up to the last.
        real = {name: f"{name}.real" for name in typed}
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [real.get(name, name) for name in names]
        model.graph.node.extend(
            helper.make_node(node.op_type, [real[name], *node.input[1:]], [name],
                             **attributes(node))
            for name, node in typed.items())
        del model.graph.value_info[:]
    return model


def matching(path: Path, inputs: Sequence[Input]) -> onnx.ModelProto | None:
    """The network that a file holds, for the inputs of a build; None if there is no such file.

    A file that cannot be read, or that takes other inputs, gives None and a :exc:`HwgenWarning`.
    """
    if not path.exists():
        return None
    try:
        model = _loaded(path, inputs)
    except HwgenError as error:
        warnings.warn(f"{error}, and is left out", HwgenWarning, stacklevel=2)
        return None
    return model


def _loaded(path: Path, inputs: Sequence[Input]) -> onnx.ModelProto:
    """Read a network, and check that it takes the inputs of a build."""
    try:
        model = onnx.load(path)
    except OSError as error:
        raise HwgenError(f"{path} cannot be read: {reason(error)}") from None
    except DecodeError:
        raise HwgenError(f"{path} is not an ONNX file") from None
    have = {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
            for value in model.graph.input}
    if have != {each.name: each.shape for each in inputs}:
        raise HwgenError(f"{path} does not take the inputs of this build")
    return model


class WholeNetwork:
    """A network that runs in onnxruntime.

    Parameters
    ----------
    path : the ``float.onnx`` of a build
    inputs : of that build

    Raises
    ------
    :exc:`HwgenError`
        If the file is missing, damaged, or takes other inputs.
    """

    def __init__(self, path: Path, inputs: Sequence[Input]) -> None:
        if not path.exists():
            raise HwgenError(f"{path} is missing: build from the network's own file or name, or "
                             f"from a graph.npz with {path.name} beside it")
        model = _loaded(path, inputs)
        try:
            self._session = session(model)
        except Exception as error:  # onnxruntime raises classes of its own for every fault
            raise HwgenError(f"{path} cannot be run: {str(error)[:300]}") from None
        self.outputs = [output.name for output in self._session.get_outputs()]

    def run(self, frames: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The file's outputs.

        Parameters
        ----------
        frames : by input, float32 array ``(N, *shape[1:])``, of at least one frame

        Returns
        -------
        :class:`dict`
            By output an array with the frames in front.

        Raises
        ------
        :exc:`HwgenError`
            If onnxruntime cannot run it.
        """
        count = len(next(iter(frames.values())))
        try:
            rows = [self._session.run(self.outputs, {n: v[k : k + 1] for n, v in frames.items()})
                    for k in range(count)]
        except Exception as error:  # likewise
            raise HwgenError(f"The float network cannot be run: {str(error)[:300]}") from None
        return {name: np.concatenate([np.asarray(row[k]) for row in rows])
                for k, name in enumerate(self.outputs)}
