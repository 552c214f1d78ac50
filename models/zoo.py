"""The networks known by name."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwgen.errors import HwgenError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Entry", "find", "names"]


@dataclass(frozen=True)
class Entry:
    """A network of the zoo.

    Members
    -------
    name : as on the command line
    build : makes the torch module
    outputs : names of its outputs
    size : default height and width of the image
    multiple : of which height and width must be multiples
    parameters : published number of parameters
    meta : what the host needs to know to decode the outputs
    """

    name: str
    build: Callable[[], nn.Module]
    outputs: tuple[str, ...]
    size: int
    multiple: int
    parameters: int
    meta: dict = field(default_factory=dict)

    def check_size(self, size: int | None) -> int:
        """The size to build for.

        Raises
        ------
        :exc:`HwgenError`
            If the network cannot take it.
        """
        size = self.size if size is None else size
        if size < self.multiple or size % self.multiple:
            near = max(1, round(size / self.multiple)) * self.multiple
            raise HwgenError(
                f"{self.name} needs a size that is a multiple of {self.multiple}, not {size!r}: "
                f"try --size {near}"
            )
        return size

    def module(self, weights: Path | None, photos: np.ndarray, seed: int) -> nn.Module:
        """The network in evaluation mode, with weights from a file or seeded.

        Parameters
        ----------
        weights : state dict file, or None
        photos : uint8 ``(N, H, W, 3)``, from which seeded networks take their batch statistics
        seed : of the weights
        """
        import torch

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = self.build()
        count = sum(p.numel() for p in module.parameters())
        if count != self.parameters:
            raise AssertionError(f"{self.name} has {count} parameters, not {self.parameters}")
        if weights is None:
            _seed_statistics(module, photos)
        else:
            _load(module, weights, self.name)
        return module.eval()

    def export(self, size: int, weights: Path | None, photos: np.ndarray, seed: int) -> bytes:
        """The network as ONNX; see :meth:`module`."""
        import torch

        module = self.module(weights, photos, seed)
        buffer = io.BytesIO()
        with torch.no_grad(), warnings.catch_warnings():
            # The TorchScript exporter is deprecated, but quicker and with plainer names.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, (torch.zeros(1, 3, size, size),), buffer, input_names=["image"],
                output_names=list(self.outputs), dynamo=False, opset_version=17,
            )
        return buffer.getvalue()


def _seed_statistics(module: nn.Module, photos: np.ndarray) -> None:
    """Give batch normalisations the statistics of real images, so that activations stay sane."""
    import torch
    from torch import nn

    images = torch.from_numpy(photos[:4].copy()).permute(0, 3, 1, 2).float() / 255
    if images.shape[-1] > 256:
        images = nn.functional.interpolate(images, size=(256, 256))
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
    module.train()
    with torch.no_grad():
        module(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _load(module: nn.Module, path: Path, name: str) -> None:
    """Load a state dict, refusing what does not fit."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
            state = state["state_dict"]
        state = {k.removeprefix("module."): v.float() if v.is_floating_point() else v
                 for k, v in state.items()}
        module.load_state_dict(state)
    except (OSError, EOFError, pickle.UnpicklingError, AttributeError, RuntimeError,
            ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise HwgenError(
            f"{path} is not a state dict of {name}: {first} "
            f"(save one with torch.save(model.state_dict(), FILE))"
        ) from None


def _yolov5(width: float, depth: float) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from models.yolov5 import YoloV5

        return YoloV5(width, depth)

    return build


_DETECT = {
    "task": "detect",
    "classes": 80,
    "strides": [8, 16, 32],
    "anchors": [
        [[10, 13], [16, 30], [33, 23]],
        [[30, 61], [62, 45], [59, 119]],
        [[116, 90], [156, 198], [373, 326]],
    ],
}

_ZOO = {
    entry.name: entry
    for entry in [
        Entry("yolov5n", _yolov5(0.25, 0.33), ("head_p3", "head_p4", "head_p5"), 640, 32,
              1_872_157, _DETECT),
    ]
}


def names() -> list[str]:
    """Names of the networks."""
    return list(_ZOO)


def find(name: str) -> Entry:
    """The network called ``name``.

    Raises
    ------
    :exc:`HwgenError`
        If there is none.
    """
    if name not in _ZOO:
        raise HwgenError(
            f"Model {name!r} is unknown: give one of {', '.join(_ZOO)}, or the path of an .onnx "
            f"file"
        )
    return _ZOO[name]
