"""Statistics of zeros, measured with calibration frames; sparse layers are planned with them.

PASS (Montgomerie-Corcoran et al., "PASS: Exploiting Post-Activation Sparsity in Streaming
Architectures for CNN Acceleration", 2023) measures the density of every stream of a layer, and
sizes what is in front of the multipliers by moving averages of it.  Here a sample of windows is
kept, from which :class:`hwgen.dse.sparse.layer.SparseLayer` computes what any folding takes.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwgen.dse.sparse.layer import SHORTEST, Depth, SparseLayer
from hwgen.dse.tradeoff.digest import parts
from hwgen.errors import HwgenError, reason
from hwgen.ir import Conv, Graph, TensorType

__all__ = ["Depth", "SparseLayer", "Statistics", "layers_of", "measure", "stated"]

FORMAT = "hwgen-sparsity-1"
SAMPLES = 1024
"""Windows that are kept of a layer, if nothing else is said."""
LARGEST = 1 << 23
"""Activations that are kept of a layer, at most."""


@dataclass(eq=False)
class Statistics:
    """What was measured of the convolutions of a network.

    Members
    -------
    layers : what was measured, by the name of the node
    source : where the numbers come from: "4 frames", "stated"
    digests : fingerprint of each layer and the network before it, by which statistics of another
        network are refused
    """

    layers: dict[str, SparseLayer]
    source: str
    digests: dict[str, str]

    def __getitem__(self, name: str) -> SparseLayer:
        if name not in self.layers:
            raise HwgenError(f"There are no statistics of layer {name!r}: it is no convolution of "
                             f"the network that was measured")
        return self.layers[name]

    def save(self, path: str | Path) -> None:
        """Write them to a file."""
        header = {
            "format": FORMAT, "source": self.source,
            "layers": [[name, self.digests[name], layer.sample.shape]
                       for name, layer in self.layers.items()],
        }
        arrays = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}
        for k, layer in enumerate(self.layers.values()):
            arrays |= {f"density_{k}": layer.density, f"places_{k}": layer.places,
                       f"sample_{k}": np.packbits(layer.sample)}
        with open(path, "wb") as file:
            np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]

    @classmethod
    def load(cls, path: str | Path, graph: Graph) -> Statistics:
        """Read a file that :meth:`save` wrote, for the network that was measured.

        Raises
        ------
        :exc:`HwgenError`
            If it cannot be read, is damaged, or is of another network.
        """
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                header = json.loads(archive["header"].tobytes())
                if header["format"] != FORMAT:
                    raise HwgenError(f"format {header['format']!r} is not {FORMAT!r}")
                found = [(name, digest, tuple(shape), *(archive[f"{what}_{k}"] for what in
                                                        ("density", "sample", "places")))
                         for k, (name, digest, shape) in enumerate(header["layers"])]
                source = str(header["source"])
        except OSError as error:
            raise HwgenError(f"{path} cannot be read: {reason(error)}") from None
        except Exception as error:
            # A damaged byte surfaces as whatever it meets first: zip, zlib, JSON, numpy.
            raise HwgenError(f"{path} is not a file of statistics: {error}") from None
        digests, own = _digests(graph), layers_of(graph)
        held = {name: digest for name, digest, *_ in found}
        layers = {}
        for name in digests:
            if held.get(name) != digests[name]:
                what = "differs" if name in held else "is missing"
                raise HwgenError(f"{path} has statistics of another network: layer {name!r} {what}")
        for name, _, shape, density, sample, places in found:
            if name not in digests:
                raise HwgenError(f"{path} has statistics of another network: it has no layer "
                                 f"{name!r}")
            op, tensor = own[name]
            size = int(np.prod(shape))
            if (shape != (op.window.taps, tensor.channels, len(places)) or not len(places)
                    or density.shape != shape[:2] or len(sample) != -(-size // 8)):
                raise HwgenError(f"{path} is not a file of statistics: layer {name!r} is damaged")
            bits = np.unpackbits(sample, count=size).reshape(shape)
            layers[name] = SparseLayer(name, op, tensor, density, bits, places)
        return cls(layers, source, digests)


def layers_of(graph: Graph) -> dict[str, tuple[Conv, TensorType]]:
    """The convolutions of a graph and the types of their inputs; dense layers are some, too."""
    found = {}
    for node in graph.nodes:
        tensor = graph.types[node.inputs[0]]
        op = node.op.as_conv(tensor)
        if isinstance(op, Conv):
            found[node.name] = op, tensor
    return found


def measure(
    graph: Graph, frames: Mapping[str, np.ndarray], samples: int = SAMPLES, seed: int = 0
) -> Statistics:
    """Statistics of all convolutions of a network.

    Parameters
    ----------
    graph : the network
    frames : its inputs, integer arrays ``(frames, *shape)``
    samples : windows that are kept of each layer
    seed : seed of their choice

    Raises
    ------
    :exc:`HwgenError`
        If there are no frames, or they do not fit the network.
    """
    if samples < 1:
        raise HwgenError(f"Samples must be 1 or more, not {samples!r}")
    count = min((len(values) for values in frames.values()), default=0)
    if not count:
        raise HwgenError("There must be a frame to measure with, or more")
    if count == 1:
        warnings.warn("Sparsity is measured with one frame only: others may differ much",
                      stacklevel=2)
    layers, random = layers_of(graph), np.random.default_rng(seed)
    inputs = {node.name: node.inputs[0] for node in graph.nodes if node.name in layers}
    places = {name: _places(count, op.infer(tensor)[0].pixels, tensor.channels * op.window.taps,
                            samples, random) for name, (op, tensor) in layers.items()}
    density = {name: np.zeros((op.window.taps, tensor.channels))
               for name, (op, tensor) in layers.items()}
    samples_of: dict[str, list[np.ndarray]] = {name: [] for name in layers}
    for frame in range(count):
        values = graph.evaluate({name: x[frame : frame + 1] for name, x in frames.items()},
                                keep=sorted(set(inputs.values())))
        for name, (op, tensor) in layers.items():
            alive = values[inputs[name]] != tensor.zero_point
            views = [view.reshape(-1, tensor.channels) for view in op.window.views(alive, 0)]
            density[name] += np.stack([view.mean(0) for view in views]) / count
            mine = places[name] - frame * len(views[0])
            mine = mine[(mine >= 0) & (mine < len(views[0]))]
            samples_of[name].append(np.stack([view[mine].T for view in views]))
    return Statistics({
        name: SparseLayer(name, op, tensor, density[name].astype(np.float32),
                    np.concatenate(samples_of[name], -1).astype(np.uint8), places[name])
        for name, (op, tensor) in layers.items()
    }, f"{count} frames", _digests(graph))


def stated(
    graph: Graph, density: float | Mapping[str, float], samples: int = SAMPLES, seed: int = 0
) -> Statistics:
    """Statistics that nobody measured: activations are zero independently of each other.

    Parameters
    ----------
    graph : the network
    density : share of activations that are not zero, of all layers or by name; a layer that is not
        named has 1
    samples, seed : see :func:`measure`
    """
    layers, random = layers_of(graph), np.random.default_rng(seed)
    shares = dict.fromkeys(layers, density) if isinstance(density, float | int) else dict(density)
    for name, share in shares.items():
        if name not in layers:
            raise HwgenError(f"The network has no convolution {name!r}")
        if not 0 <= share <= 1:
            raise HwgenError(f"Density of {name!r} must be between 0 and 1, not {share!r}")
    found = {}
    for name, (op, tensor) in layers.items():
        shape, share = (op.window.taps, tensor.channels), shares.get(name, 1.0)
        count = max(1, min(samples, LARGEST // (shape[0] * shape[1])))
        sample = (random.random((*shape, count), np.float32) < share).astype(np.uint8)
        found[name] = SparseLayer(name, op, tensor, np.full(shape, share, np.float32), sample,
                            np.arange(count))
    return Statistics(found, "stated", _digests(graph))


def _places(
    frames: int, windows: int, size: int, samples: int, random: np.random.Generator
) -> np.ndarray:
    """Numbers of the windows that are kept: runs, one in each of several equal parts of all."""
    total = frames * windows
    samples = max(1, min(samples, LARGEST // size))
    if total <= samples:
        return np.arange(total)
    length = min(samples, max(SHORTEST, samples // max(SHORTEST, frames)))
    runs = samples // length
    edges = np.linspace(0, total, runs + 1).astype(int)
    starts = [random.integers(a, max(b - length, a) + 1) for a, b in zip(edges, edges[1:])]
    return np.unique(np.array(starts)[:, None] + np.arange(length))


def _digests(graph: Graph) -> dict[str, str]:
    """For each convolution, a digest of itself and of all that its input is computed from."""
    known = {name: hashlib.sha256(f"{name} {type!r}".encode()).digest()
             for name, type in graph.inputs.items()}
    layers, found = layers_of(graph), {}
    for node in graph.nodes:
        hash = hashlib.sha256(repr(node.inputs).encode())
        for part in parts(node.op):
            hash.update(part)
        for tensor in node.inputs:
            hash.update(known[tensor])
        known |= {tensor: hash.digest() + tensor.encode() for tensor in node.outputs}
        if node.name in layers:
            found[node.name] = hash.hexdigest()
    return found
