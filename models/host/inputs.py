"""What the host does in front of the accelerator: frames as the file takes them become codes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from hwgen.errors import HwgenError, HwgenWarning, reason
from hwgen.ir import Graph, Quantisation, TensorType
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.normalisation import Normalisation
from hwgen.models.onnx.quantisers import IntegerInput

__all__ = ["FORMAT", "Input", "described", "load", "matching", "network", "save"]

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
    mean, std : of each channel, how an image becomes a frame: ``(pixel / 255 - mean) / std``;
        empty: if it takes images, they are ``pixel / 255``
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
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def type(self) -> TensorType:
        """Type of the accelerator's input."""
        return TensorType(self.frame, Quantisation(self.scale, self.zero_point, self.bits))

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest value that there is a code for."""
        codes = self.type.quantisation
        low, high = codes.dequantise(np.array([codes.low, codes.high])).tolist()
        return low, high

    def codes(self, frames: np.ndarray) -> np.ndarray:
        """Codes of frames as the file takes them.

        Values that no code stands for are clipped, with a :exc:`HwgenWarning`.

        Parameters
        ----------
        frames : float array ``(N, *shape[1:])``, or one of integers if the file takes such

        Returns
        -------
        integers ``(N, *frame)``

        Raises
        ------
        :exc:`HwgenError`
            As :meth:`real`.
        """
        real = self.real(frames)
        low, high = self.range
        beyond = (real < low - self.scale / 2) | (real > high + self.scale / 2)
        if beyond.any():
            share = np.count_nonzero(beyond) / beyond.size
            warnings.warn(
                f"Input {self.name!r}: {100 * share:.2g} % of the values are clipped, because they "
                f"go from {real.min():.4g} to {real.max():.4g}, and codes from {low:.4g} to "
                f"{high:.4g}: scale the frames as those of the calibration were, or calibrate on "
                f"frames like these", HwgenWarning, stacklevel=2)
        last = np.moveaxis(real, self.channel_axis, -1).reshape(-1, *self.frame)
        return self.type.quantisation.quantise(last)

    def real(self, frames: np.ndarray) -> np.ndarray:
        """Frames as float32, in the file's layout.

        Parameters
        ----------
        frames : float array ``(N, *shape[1:])``, or one of integers if the file takes such

        Returns
        -------
        float32 array of the same shape; for integers, what they stand for

        Raises
        ------
        :exc:`HwgenError`
            If the shape differs, the array is not of what the file takes, or it holds NaN or
            infinity.
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
            image = "(pixels / 255 - mean) / std" if self.mean else "pixels / 255"
            raise HwgenError(f"Input {self.name!r} takes floats as the file does, not "
                             f"{frames.dtype}" + (f": {image}" if self.mean or self.pixels else ""))
        if not (np.abs(frames) <= np.finfo(np.float32).max).all():
            raise HwgenError(f"Input {self.name!r}: the frames hold NaN, infinity, or what float32 "
                             f"does not hold")
        return frames.astype(np.float32)


def described(graph: Graph, network: Network) -> list[Input]:
    """The inputs of an integer graph, in terms of the network that it was made from."""
    found = []
    for (stream, type), name in zip(graph.inputs.items(), network.inputs, strict=True):
        codes = type.quantisation
        normalisation = network.normalised.get(name, Normalisation())
        found.append(Input(
            name, stream, tuple(network.shapes[name]), graph.meta.get("axes", {}).get(stream, 1),
            type.shape, codes.scale, codes.zero_point, codes.bits,
            codes == Quantisation(float(np.float32(1 / 255)), -128, 8),
            network.integer_inputs.get(name),
            normalisation.mean, normalisation.std,
        ))
    return found


def network(inputs: Sequence[Input]) -> Network:
    """A network that has no more than inputs, to make frames for."""
    return Network(
        onnx.ModelProto(), [], {}, {each.name: each.shape for each in inputs},
        [each.name for each in inputs], [],
        integer_inputs={each.name: each.integer for each in inputs if each.integer is not None},
        normalised={each.name: Normalisation(each.mean, each.std) for each in inputs if each.mean},
    )


def matching(path: Path, graph: Graph) -> list[Input] | None:
    """The inputs that a file describes, in the order of a graph's; None if there is no such file.

    A file that cannot be read, or that goes with another graph, gives None and a
    :exc:`HwgenWarning`.
    """
    if not path.exists():
        return None
    try:
        found = {each.stream: each for each in load(path)}
    except HwgenError as error:
        warnings.warn(f"{error}; it is left out", HwgenWarning, stacklevel=2)
        return None
    if {stream: each.type for stream, each in found.items()} != graph.inputs:
        warnings.warn(f"{path} does not describe the inputs of this graph and is left out",
                      HwgenWarning, stacklevel=2)
        return None
    return [found[stream] for stream in graph.inputs]


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
                    "mean": tuple(body.get("mean", ())), "std": tuple(body.get("std", ())),
                    "integer": None if integer is None else IntegerInput(**integer)})
