"""Frames to show a network: photographs, a directory of images, arrays from files, or noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hwgen.errors import HwgenError, naming, reason
from hwgen.models.frames import images
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.normalisation import Normalisation
from hwgen.models.onnx.quantisers import IntegerInput

__all__ = [
    "Feed", "Feeds", "calibration", "channel_axis", "extent", "feeds", "normalised", "pictures",
]

Feed = dict[str, np.ndarray]
"""The inputs of a network for one frame, by name, with a batch of 1."""

ARRAYS = {".npy", ".npz"}
LIMIT = 64
"""Most frames of a directory or a file that a network is calibrated on."""
PICTURES = 4
"""Crops of photographs where nothing is given."""
NOISE = 16
"""Frames of noise for a network without an image input."""
PICTURED = 4, 5
"""Ranks of the inputs that take an image or a video."""


@dataclass(frozen=True)
class Feeds:
    """Frames that are made when they are asked for; it iterates over :data:`Feed`, again and again.

    Parameters
    ----------
    count : number of frames
    make : from the number of a frame to its inputs
    seeded : whether they depend on a seed
    origin : what they are, in words
    images : whether they are made of images
    """

    count: int
    make: Callable[[int], Feed]
    seeded: bool = False
    origin: str = ""
    images: bool = False

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Feed]:
        return map(self.make, range(self.count))


def calibration(
    network: Network, path: Path | None = None, seed: int = 0, limit: int | None = LIMIT
) -> Feeds:
    """The frames to calibrate a network on, or to run it with.

    Parameters
    ----------
    network : :class:`hwgen.models.onnx.network.Network`
    path : where they are; None: crops of two photographs, or noise if the network takes no image
        A directory of images (of any size, see :func:`hwgen.models.frames.images.fit`), or one; a
        directory of ``.npy`` or ``.npz`` files, or one.  An array is one frame or a batch of them,
        float, shaped and scaled as the network's input; ``.npz`` files hold one array per input,
        named after it.
    seed : of the crops and the noise
    limit : most frames that are taken, the first ones by name of file; None: all

    Raises
    ------
    :exc:`HwgenError`
        If a file is missing, damaged, or does not fit the network.
    """
    size = extent(network)
    if path is not None and path.suffix.lower() in ARRAYS and not path.is_dir():
        return _from_arrays(network, [path], path, limit)
    if path is not None:
        if arrays := _listed(path):
            return _from_arrays(network, arrays, path, limit)
        if size is None:
            raise HwgenError(f"The network takes no image, so {path} must hold .npy files")
    elif size is None:
        # Only the number of these counts: no input takes an image.
        made = feeds(network, np.zeros((NOISE, 1, 1, 3), np.uint8), seed)
        return replace(made, origin=f"frames of noise, seeded with {seed}")
    photos = pictures(path, size, seed, limit)
    if path is None and any(len(network.shapes[name]) not in PICTURED for name in network.inputs):
        # Few frames of noise would leave out much of what noise can be.
        photos = images.photographs(NOISE, size, seed)
    made = feeds(network, photos, seed)
    if path is None:
        return replace(made, seeded=True, origin=f"crops of photographs, seeded with {seed}",
                       images=True)
    height, width = size
    return replace(made, origin=f"images of {path}, scaled into {height} x {width}", images=True)


def pictures(
    path: Path | None, size: tuple[int, int], seed: int = 0, limit: int | None = LIMIT
) -> np.ndarray:
    """The images of a directory, or crops of photographs if ``path`` is None or holds arrays.

    The parameters are those of :func:`calibration`, and height and width.

    Returns
    -------
    uint8 array ``(N, height, width, 3)``
    """
    if path is None or path.suffix.lower() in ARRAYS or _listed(path):
        return images.photographs(PICTURES, size, seed)
    return images.directory(path, size, limit)


def _listed(path: Path) -> list[Path]:
    """The array files of a directory, sorted by name; none if it holds images, or is one."""
    if not path.exists():
        raise HwgenError(f"{path} does not exist: give a directory of images or arrays, an image, "
                         f"or an .npy or .npz file")
    if not path.is_dir():
        if path.suffix.lower() in images.SUFFIXES:
            return []
        raise HwgenError(f"{path} is not a directory of images or arrays, nor an image "
                         f"({', '.join(sorted(images.SUFFIXES))}), nor an .npy or .npz file")
    try:
        files = sorted(path.iterdir())
    except OSError as error:
        raise HwgenError(f"{path} cannot be read: {reason(error)}") from None
    arrays = [p for p in files if p.suffix.lower() in ARRAYS]
    others = [p for p in files if p.suffix.lower() in images.SUFFIXES]
    if arrays and others:
        raise HwgenError(f"{path} holds images and arrays ({others[0].name}, {arrays[0].name}): "
                         f"leave only those that are the frames")
    if not arrays and not others:
        raise HwgenError(f"{path} holds no image ({', '.join(sorted(images.SUFFIXES))}) and no "
                         f".npy file")
    return arrays


def extent(network: Network) -> tuple[int, int] | None:
    """Height and width of the first image or video input; None: there is none."""
    for name in network.inputs:
        shape = network.shapes[name]
        if len(shape) in PICTURED:
            height, width = shape[-3:-1] if _channels_last(shape) else shape[-2:]
            return height, width
    return None


def normalised(network: Network, normalisation: Normalisation) -> dict[str, Normalisation]:
    """How each of a network's inputs of images takes them, where these are normalised.

    Raises
    ------
    :exc:`HwgenError`
        If there is no such input, one takes integers, or has another number of channels.
    """
    found = {}
    for name in network.inputs:
        shape = network.shapes[name]
        if len(shape) not in PICTURED:
            continue
        if name in network.integer_inputs:
            raise HwgenError(f"Input {name!r} takes integers, and the file says what they stand "
                             f"for: its images cannot be normalised by {normalisation}")
        with naming(f"Input {name!r}"):
            found[name] = normalisation.of(shape[channel_axis(shape)])
    if not found:
        raise HwgenError(f"The network takes no image that could be normalised by {normalisation}")
    return found


def channel_axis(shape: tuple[int, ...]) -> int:
    """Which axis of an image or video input are its channels."""
    return len(shape) - 1 if _channels_last(shape) else 1


def _channels_last(shape: tuple[int, ...]) -> bool:
    """Whether an image or video input has its colours last, as TensorFlow's networks do."""
    return len(shape) in PICTURED and shape[-1] in (1, 3) and shape[1] not in (1, 3)


# From photographs

def feeds(network: Network, photos: np.ndarray, seed: int = 0) -> Feeds:
    """Float inputs, one frame for each photograph.

    Inputs ``(1, C, H, W)`` or ``(1, H, W, C)`` take the photograph, 0..1: in colour if C is 3, grey
    if it is 1; for any other C the three colours in turn, each time further shifted.  Inputs
    ``(1, C, T, H, W)`` take a pan over it.  Where the network takes normalised images
    (``network.normalised``), they are.  Inputs of any other rank take standard normal noise.
    Inputs of integers take the codes of a picture, or noise of all integers.  If several inputs
    take pictures, each takes the photograph after that of the input before.

    Parameters
    ----------
    network : :class:`hwgen.models.onnx.network.Network`
    photos : uint8 array, shape ``(N, H, W, 3)``; scaled where an input has another size
    seed : of the noise
    """

    count = len(photos)

    def photo(k: int) -> np.ndarray:
        # Of fewer photographs than inputs, some come again, moved.
        again = k // count
        height, width = photos.shape[1:3]
        return np.roll(photos[k % count], (again * height // 5, again * (width // 3 + 1)), (0, 1))

    def make(k: int) -> Feed:
        feed, pictures = {}, 0
        for i, name in enumerate(network.inputs):
            shape = network.shapes[name]
            feed[name] = _frame(photo(k + pictures), shape, [seed, k, i])
            if name in network.integer_inputs:
                feed[name] = _integers(feed[name], network.integer_inputs[name], [seed, k, i])
            elif name in network.normalised:
                feed[name] = network.normalised[name].apply(feed[name], channel_axis(shape))
            pictures += len(shape) in PICTURED
        return feed

    noisy = any(len(network.shapes[name]) not in PICTURED for name in network.inputs)
    return Feeds(count, make, seeded=noisy)


def _frame(photo: np.ndarray, shape: tuple[int, ...], seed: list[int]) -> np.ndarray:
    """One photograph as an input of ``shape``."""
    if len(shape) not in PICTURED:
        return np.random.default_rng(seed).standard_normal(shape, np.float32)
    if _channels_last(shape):
        first = _frame(photo, (shape[0], shape[-1], *shape[1:-1]), seed)
        return np.moveaxis(first, 1, -1)
    height, width = shape[-2:]
    if photo.shape[:2] != (height, width):
        from PIL import Image

        scaled = Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR)
        photo = np.asarray(scaled)
    image = photo.astype(np.float32).transpose(2, 0, 1) / 255
    channels = shape[1]
    if channels == 1:
        image = image.mean(0, keepdims=True)
    elif channels != 3:
        image = np.stack([
            np.roll(image[c % 3], (c // 3, c // 3), (0, 1)) for c in range(channels)
        ])
    if len(shape) == 4:
        return image[None]
    step = max(1, width // 64)
    return np.stack([np.roll(image, t * step, -1) for t in range(shape[2])], axis=1)[None]


def _integers(frame: np.ndarray, given: IntegerInput, seed: list[int]) -> np.ndarray:
    """A frame for an input of integers: all of them occur, in pictures as pixels do."""
    span = given.high - given.low
    if frame.ndim in PICTURED:
        return given.real(np.rint(frame * span) + given.low)
    random = np.random.default_rng(seed)
    return given.real(random.integers(given.low, given.high, frame.shape, endpoint=True))


# From arrays

def _from_arrays(
    network: Network, files: list[Path], path: Path, limit: int | None
) -> Feeds:
    """The frames of array files, checked; the arrays of ``.npy`` files stay on disk.

    Parameters
    ----------
    network : what they are for
    files : the array files, in order
    path : the directory or the file, as it was given
    limit : most frames that are taken; None: all
    """
    frames: list[tuple[Feed, int]] = []
    for file in files:
        if limit is None or len(frames) < limit:
            batches = _batches(network, file)
            count = len(next(iter(batches.values())))
            count = count if limit is None else min(count, limit - len(frames))
            frames += [(batches, k) for k in range(count)]
            for name, batch in batches.items():
                if not (np.abs(batch[:count]) <= np.finfo(np.float32).max).all():
                    raise HwgenError(f"{file}: the values for input {name!r} hold NaN, infinity, "
                                     f"or what float32 does not hold")

    def make(k: int) -> Feed:
        batches, row = frames[k]
        return {name: batch[row][None].astype(np.float32) for name, batch in batches.items()}

    return Feeds(len(frames), make, origin=f"frames of {path}")


def _batches(network: Network, file: Path) -> Feed:
    """What a file holds for each input: arrays ``(frames, ...)``."""
    arrays = _read(file)
    wanted = network.inputs
    if len(wanted) == len(arrays) == 1:
        arrays = {wanted[0]: next(iter(arrays.values()))}
    if set(arrays) != set(wanted):
        inputs, held = (", ".join(map(repr, sorted(names))) or "nothing"
                        for names in (wanted, arrays))
        raise HwgenError(f"{file} holds {held}, but the network's inputs are {inputs}: give an "
                         f".npz file with an array for each")
    batches = {}
    for name, array in arrays.items():
        shape = network.shapes[name]
        if array.shape == shape[1:]:
            array = array[None]
        if array.shape[1:] != shape[1:] or array.ndim != len(shape):
            raise HwgenError(
                f"{file}: input {name!r} needs shape {shape} (or that of a batch), not "
                f"{array.shape}"
            )
        given = network.integer_inputs.get(name)
        if given is not None and array.dtype.kind in "iu":
            if array.size and not given.low <= array.min() <= array.max() <= given.high:
                raise HwgenError(f"{file}: input {name!r} takes integers {given.low} to "
                                 f"{given.high}, not {array.min()} to {array.max()}")
            array = given.real(array)
        if array.dtype.kind != "f":
            raise HwgenError(f"{file}: input {name!r} takes floats, not {array.dtype}: save the "
                             f"values as the network takes them (images mostly as pixel / 255, or "
                             f"normalised)")
        batches[name] = array
    counts = {len(batch) for batch in batches.values()}
    if len(counts) > 1 or 0 in counts:
        raise HwgenError(f"{file} must hold at least one frame, and as many for every input")
    return batches


def _read(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name; that of an ``.npy`` file has none."""
    try:
        with open(file, "rb") as stream:
            if stream.read(2) == b"PK":
                stream.seek(0)
                with np.load(stream, allow_pickle=False) as archive:
                    return {name: archive[name] for name in archive.files}
        return {"": np.load(file, mmap_mode="r", allow_pickle=False)}
    except OSError as error:
        raise HwgenError(f"{file} cannot be read: {reason(error)}") from None
    except Exception:
        # A damaged byte surfaces as whatever it meets first: zip, zlib, the header, numpy.
        raise HwgenError(f"{file} is not a file of arrays that can be read: .npy files hold one "
                         f"array of numbers, .npz files some by name") from None
