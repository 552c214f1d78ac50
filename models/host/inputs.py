"""What the host does in front of the accelerator: frames as the file takes them become codes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hwgen.errors import HwgenError, reason
from hwgen.ir import Graph, Quantisation, TensorType
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.quantisers import IntegerInput

__all__ = ["FORMAT", "Input", "described", "load", "save"]

FORMAT = "hwgen-inputs-1"


@dataclass(frozen=True)
class Input:
    """An input of the file, and the stream of codes that the accelerator takes for it.

    Members
    -------
    name : of the file
    stream : of the accelerator
    shape : of the file, with a batch of 1
    channel_axis : of this shape, which axis comes last in the stream; the others keep their order
    frame : shape of the stream's frame, channels last
    scale, zero_point, bits : a code is ``round(value / scale) + zero_point``, clipped
    pixels : whether an image with values 0..1 is taken: then a code is its pixel (0..255) - 128
    integer : what the file's integers stand for, if it takes such
    """

    name: str
    stream: str
    shape: tuple[int, ...]
    channel_axis: int
    frame: tuple[int, ...]
    scale: float
    zero_point: int
    bits: int
    pixels: bool
    integer: IntegerInput | None = None

    @property
    def type(self) -> TensorType:
        """Type of the accelerator's input."""
        return TensorType(self.frame, Quantisation(self.scale, self.zero_point, self.bits))

    def codes(self, frames: np.ndarray) -> np.ndarray:
        """Codes of frames as the file takes them.

        Parameters
        ----------
        frames : float array ``(N, *shape[1:])``, or one of integers if the file takes such

        Returns
        -------
        integers ``(N, *frame)``

        Raises
        ------
        :exc:`HwgenError`
            If the shape differs, or the array is not of what the file takes.
        """
        frames = np.asarray(frames)
        if frames.shape[1:] != self.shape[1:] or frames.ndim != len(self.shape):
            raise HwgenError(f"Input {self.name!r} takes frames of shape {self.shape[1:]} in an "
                             f"array {('N', *self.shape[1:])}, not {frames.shape}")
        if self.integer is not None and frames.dtype.kind in "iu":
            low, high = self.integer.low, self.integer.high
            if frames.size and not low <= frames.min() <= frames.max() <= high:
                raise HwgenError(f"Input {self.name!r} takes integers {low} to {high}, not "
                                 f"{frames.min()} to {frames.max()}")
            frames = self.integer.real(frames)
        if frames.dtype.kind != "f":
            raise HwgenError(f"Input {self.name!r} takes floats as the file does, not "
                             f"{frames.dtype}" + (": pixels / 255" if self.pixels else ""))
        last = np.moveaxis(frames, self.channel_axis, -1).reshape(-1, *self.frame)
        return self.type.quantisation.quantise(last)


def described(graph: Graph, network: Network) -> list[Input]:
    """The inputs of an integer graph, in terms of the network that it was made from."""
    found = []
    for (stream, type), name in zip(graph.inputs.items(), network.inputs, strict=True):
        codes = type.quantisation
        found.append(Input(
            name, stream, tuple(network.shapes[name]), graph.meta.get("axes", {}).get(stream, 1),
            type.shape, codes.scale, codes.zero_point, codes.bits,
            codes == Quantisation(float(np.float32(1 / 255)), -128, 8),
            network.integer_inputs.get(name),
        ))
    return found


def save(inputs: list[Input], path: Path) -> None:
    """Write ``pre.json``."""
    body = {"format": FORMAT, "inputs": [asdict(each) for each in inputs]}
    path.write_text(json.dumps(body, indent=1) + "\n")


def load(path: Path) -> list[Input]:
    """Read ``pre.json``.

    Raises
    ------
    :exc:`HwgenError`
        If it is missing, damaged or of another format.
    """
    try:
        body = json.loads(path.read_text())
        if body["format"] != FORMAT:
            raise HwgenError(f"format {body['format']!r} is not {FORMAT!r}")
        return [_input(each) for each in body["inputs"]]
    except OSError as error:
        raise HwgenError(f"{path} cannot be read: {reason(error)}") from None
    except (ValueError, KeyError, TypeError, HwgenError) as error:
        raise HwgenError(f"{path} does not describe inputs: {error}") from None


def _input(body: Mapping) -> Input:
    integer = body.get("integer")
    return Input(**{**body, "shape": tuple(body["shape"]), "frame": tuple(body["frame"]),
                    "integer": None if integer is None else IntegerInput(**integer)})
