"""What the zoo knows of a network, and how it makes one: weights, batch statistics, export."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hwgen.errors import HwgenError, reason

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Colours", "Entry", "Sizes", "at_least", "multiple_of"]


@dataclass(frozen=True)
class Sizes:
    """The heights and widths that a network takes.

    Members
    -------
    rule : as errors say it, behind "a size that is"
    allows : whether a positive size is one of them
    """

    rule: str
    allows: Callable[[int], bool]

    def near(self, size: int) -> list[int]:
        """The next smaller and the next larger size, as far as there are such."""
        size = max(size, 0)
        below = next((s for s in range(size, 0, -1) if self.allows(s)), None)
        above = next((s for s in range(size + 1, 2 * size + 1000) if self.allows(s)), None)
        return [s for s in (below, above) if s is not None]


def multiple_of(step: int) -> Sizes:
    """Multiples of ``step``."""
    return Sizes(f"a multiple of {step}", lambda size: size % step == 0)


def at_least(least: int) -> Sizes:
    """Every size from ``least`` on."""
    return Sizes(f"at least {least}", lambda size: size >= least)


class Colours(NamedTuple):
    """Mean and standard deviation of each colour, of values in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Entry:
    """A network of the zoo.

    Members
    -------
    name : as on the command line
    build : makes the torch module, as state dicts are published for it
    outputs : names of its outputs
    heads : one line on what they mean
    size : default height and width of the image
    sizes : those that it takes
    parameters : published number of parameters
    macs : multiplications and accumulations for one image, clip, sound or text of the default size
        Of convolutions, dense layers and the products of attention, taps on the padding included.
    meta : what the host needs to know to decode the outputs; plain JSON data
        At least ``task``: ``detect``, ``classify``, ``segment``, ``video``, ``sound`` or ``text``.
    colours : to which published weights expect images normalised; None: they take them in 0..1
        Normalising is part of the network: its input is an image in 0..1 either way.
    frames : images of one clip; None: the network takes one image
    words : of the vocabulary, for a network that takes ids of words; its size is their number
    features : numbers of each step, for a network that takes steps of a sound; its size is their
        number
    layers : blocks, of the longest stage where it has stages; None: the network is taken whole
    deploy : replaces what only training needs; ``parameters`` and ``macs`` are counted thereafter
    """

    name: str
    build: Callable[[], nn.Module]
    outputs: tuple[str, ...]
    heads: str
    size: int
    sizes: Sizes
    parameters: int
    macs: int
    meta: dict = field(default_factory=dict)
    colours: Colours | None = None
    frames: int | None = None
    words: int | None = None
    features: int | None = None
    layers: int | None = None
    deploy: Callable[[nn.Module], nn.Module] = lambda module: module

    @property
    def task(self) -> str:
        """What the network is for."""
        return self.meta["task"]

    def check_size(self, size: int | None) -> int:
        """The size to build for.

        Raises
        ------
        :exc:`HwgenError`
            If the network cannot take it.
        """
        size = self.size if size is None else size
        if size < 1 or not self.sizes.allows(size):
            near = " or ".join(map(str, self.sizes.near(size)))
            raise HwgenError(
                f"{self.name} needs a size that is {self.sizes.rule}, not {size!r}: "
                f"try {near}"
            )
        return size

    def check_layers(self, layers: int | None) -> int | None:
        """The blocks to keep, or None for all of them.

        Raises
        ------
        :exc:`HwgenError`
            If the network cannot be cut to so many.
        """
        if layers is not None and self.layers is None:
            raise HwgenError(f"{self.name} is taken whole, with all its layers: leave out layers")
        if layers is not None and self.layers is not None and not 1 <= layers <= self.layers:
            raise HwgenError(f"{self.name} has {self.layers} layers, of which 1 to {self.layers} "
                             f"can be kept, not {layers}")
        return layers

    def input_shape(self, size: int) -> tuple[int, ...]:
        """Shape of the input.

        ``(1, 3, H, W)``; for video ``(1, 3, T, H, W)``, for sound ``(1, T, features)``, and for
        text ``(1, T)``.
        """
        if self.features is not None:
            return (1, size, self.features)
        if self.words is not None:
            return (1, size)
        return (1, 3, size, size) if self.frames is None else (1, 3, self.frames, size, size)

    def extents(self, size: int) -> str:
        """The size as tables show it: ``224x224``, ``49 steps of 10``, or ``128 tokens``."""
        if self.features is not None:
            return f"{size} steps of {self.features}"
        if self.words is not None:
            return f"{size} tokens"
        return "x".join(map(str, self.input_shape(size)[2:]))

    def inputs(self, photos: np.ndarray) -> np.ndarray:
        """What the network takes for photographs: float32 in 0..1, or ids.

        Parameters
        ----------
        photos : uint8 ``(N, H, W, 3)``; a network for video sees a pan over each of them, one for
            sound some columns in green, from -1 to 1, and one for text the colours of the first
            row as numbers of words

        Returns
        -------
        ``(N, 3, H, W)``, ``(N, 3, T, H, W)``, ``(N, T, features)`` or, int64, ``(N, T)``
        """
        if self.features is not None:
            columns = np.linspace(0, photos.shape[2] - 1, self.features).astype(int)
            return photos[:, :, columns, 1].astype(np.float32) / 127.5 - 1
        if self.words is not None:
            return photos[:, 0].astype(np.int64) @ [1 << 16, 1 << 8, 1] % self.words
        images = photos.astype(np.float32).transpose(0, 3, 1, 2) / 255
        if self.frames is None:
            return images
        step = max(1, images.shape[-1] // 64)
        return np.stack([np.roll(images, t * step, -1) for t in range(self.frames)], axis=2)

    def module(
        self, weights: Path | None, photos: np.ndarray, seed: int, layers: int | None = None
    ) -> nn.Module:
        """The network in evaluation mode, as deployed, with weights from a file or seeded.

        It takes what :meth:`inputs` gives: where its weights expect otherwise, it normalises first.

        Parameters
        ----------
        weights : state dict file, or None
        photos : uint8 ``(N, H, W, 3)``, from which seeded networks take their batch statistics
        seed : of the weights
        layers : blocks that are kept of those that the weights are for; None: all
        """
        import torch

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = self.build()
        if self.colours is not None:
            from hwgen.models.zoo.layers import Normalise

            Normalise(*self.colours, len(self.input_shape(self.size)) - 2).before(module)
        if weights is None:
            _seed_statistics(module, self.inputs(_views(photos)))
        else:
            _load(module, weights, self.name)
        module = self.deploy(module.eval())
        count = sum(p.numel() for p in module.parameters())
        if count != self.parameters:
            raise AssertionError(f"{self.name} has {count} parameters, not {self.parameters}")
        if layers is not None:
            from hwgen.models.zoo.layers import Layered

            assert isinstance(module, Layered)
            module.keep(layers)
        return module

    def export(
        self, size: int, weights: Path | None, photos: np.ndarray, seed: int,
        layers: int | None = None,
    ) -> bytes:
        """The network as ONNX; see :meth:`module`."""
        return self.serialise(self.module(weights, photos, seed, layers), size)

    def serialise(self, module: nn.Module, size: int) -> bytes:
        """A module of this network as ONNX, for images, sounds or texts of one size."""
        import torch

        name = "image" if self.frames is None else "clip"
        name = name if self.features is None else "steps"
        example = torch.zeros(self.input_shape(size))
        if self.words is not None:
            name, example = "ids", example.long()
        buffer = io.BytesIO()
        with torch.no_grad(), warnings.catch_warnings():
            # The TorchScript exporter is deprecated, but quicker and with plainer names.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, (example,), buffer, input_names=[name],
                output_names=list(self.outputs), dynamo=False, opset_version=17,
            )
        return buffer.getvalue()


def _views(photos: np.ndarray) -> np.ndarray:
    """The first four photographs; small ones mirrored each way as well.

    The last maps of a small image have few pixels: too few for a variance that holds for others.
    """
    photos = photos[:4]
    if photos.shape[1] > 128:
        return photos
    return np.concatenate([photos, photos[:, :, ::-1], photos[:, ::-1], photos[:, ::-1, ::-1]])


def _seed_statistics(module: nn.Module, inputs: np.ndarray) -> None:
    """Give batch normalisations the statistics of real images, so that activations stay sane."""
    import torch
    from torch import nn

    norms = [m for m in module.modules()
             if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)]
    if not norms:
        return
    images = _reduced(torch.from_numpy(inputs))
    momenta = [norm.momentum for norm in norms]
    # The rest stays in evaluation mode: dropout would draw from the caller's random numbers.
    module.eval()
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        norm.train()
    with torch.no_grad():
        module(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _reduced(images: torch.Tensor, most: int = 256) -> torch.Tensor:
    """Images or clips scaled to an extent at which statistics take seconds."""
    from torch.nn.functional import interpolate

    if images.shape[-1] <= most:
        return images
    return interpolate(images, size=(*images.shape[2:-2], most, most))


def _load(module: nn.Module, path: Path, name: str) -> None:
    """Load a state dict, and refuse one that does not fit."""
    import torch

    state = None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
            state = state["state_dict"]
        state = {k.removeprefix("module."): v.float() if v.is_floating_point() else v
                 for k, v in state.items()}
        module.load_state_dict(state)
        return
    except OSError as error:
        unlike = reason(error)
    except (EOFError, pickle.UnpicklingError, AttributeError, RuntimeError, ValueError, TypeError):
        # What torch says of these is long, coloured, and about itself.
        unlike = _unlike(module.state_dict(), state) if isinstance(state, dict) else ""
    raise HwgenError(
        f"{path} is not a state dict of {name}: "
        f"{unlike or 'it is damaged, or holds more than tensors by name'} "
        f"(save one with torch.save(model.state_dict(), FILE))"
    )


def _unlike(own: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What a state dict lacks, has beside, or has in another shape; nothing if it is none."""
    import torch

    if not all(isinstance(value, torch.Tensor) for value in given.values()):
        return ""

    def some(names: list[str]) -> str:
        more = f" and {len(names) - 3} more" if names[3:] else ""
        return f"{', '.join(map(repr, names[:3]))}{more}"

    faults = []
    if missing := [k for k in own if k not in given]:
        faults.append(f"it lacks {some(missing)}")
    if unknown := [k for k in given if k not in own]:
        faults.append(f"it has {some(unknown)} that the network has not")
    if others := [k for k in own if k in given and own[k].shape != given[k].shape]:
        first = others[0]
        faults.append(f"{first!r} has shape {list(given[first].shape)}, not "
                      f"{list(own[first].shape)}")
    return "; ".join(faults)
