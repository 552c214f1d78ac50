"""From a model's name or file to the integer graph: the one road in."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwgen.errors import HwgenError, HwgenWarning, reason
from hwgen.ir import Embedding, Graph
from hwgen.models import zoo
from hwgen.models.quantisation.precision import Precision

if TYPE_CHECKING:
    from onnx import ModelProto

    from hwgen.models.frames.samples import Feed, Feeds
    from hwgen.models.onnx.network import Network
    from hwgen.models.onnx.shapes import Size

__all__ = ["Source", "load", "read"]

PIXELS = 32
"""Values of an image up to 255 and above this are pixels, hardly something normalised."""


def load(model: str, **options) -> Graph:
    """The integer graph of a network, with the options of :func:`read`."""
    return read(model, **options).graph


@dataclass(frozen=True)
class Source:
    """An integer graph and where it came from.

    Members
    -------
    graph : the integer graph
    network : the float network that it stands for
    feeds : the calibration frames
    host : what is left to the host, from the integer graph's outputs to the file's own; of a
        ``graph.npz``, the ``host.onnx`` that lies beside it, or None
    whole : the file's whole network in float, from its inputs to its outputs; of a ``graph.npz``,
        the ``float.onnx`` that lies beside it, or None
    calibrated : whether the frames decided any codes
        They do not where a file states the codes of all its weights and tensors, nor for a
        ``graph.npz``.
    seeded : whether the seed decided anything of the graph: its weights, or frames that decided
        codes
    """

    graph: Graph
    network: Network
    feeds: Feeds
    host: ModelProto | None = None
    whole: ModelProto | None = None
    calibrated: bool = False
    seeded: bool = False

    @property
    def left_to_host(self) -> list[dict[str, str]]:
        """The nodes of the file that the host computes.

        See :func:`hwgen.models.host.model.left_to_host`.
        """
        from hwgen.models.host.model import left_to_host

        return [] if self.host is None else left_to_host(self.host)

    def frames(self, count: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Integer inputs to try the graph on: photographs, pans over them, or noise.

        The same seed as that of the calibration gives other frames than it had.

        Returns
        -------
        integers ``(count, *shape)`` by input
        """
        from hwgen.models.frames import images, samples

        photos = images.photographs(count, samples.extent(self.network) or (1, 1), seed + 1)
        return self.quantised(samples.feeds(self.network, photos, seed + 1))

    def calibration(self, count: int = 8) -> dict[str, np.ndarray]:
        """The first ``count`` calibration frames, or all if there are fewer, as integers.

        Returns
        -------
        integers ``(frames, *shape)`` by input
        """
        return self.quantised(islice(self.feeds, count))

    def quantised(self, feeds: Iterable[Feed]) -> dict[str, np.ndarray]:
        """Integer inputs for float ones.

        Parameters
        ----------
        feeds : for each frame, arrays ``(1, ...)`` by the file's inputs

        Returns
        -------
        integers ``(frames, *shape)`` by the graph's inputs
        """
        frames: dict[str, list[np.ndarray]] = {name: [] for name in self.graph.inputs}
        for feed in feeds:
            for (name, type), given in zip(
                self.graph.inputs.items(), self.network.inputs, strict=True
            ):
                frame = feed[given][0]
                axis = self.graph.meta.get("axes", {}).get(name, 1)
                frame = np.moveaxis(frame, axis - 1, -1).reshape(type.shape)
                frames[name].append(type.quantisation.quantise(frame))
        return {name: np.stack(rows) for name, rows in frames.items()}


def read(
    model: str,
    *,
    size: Size = None,
    layers: int | None = None,
    weights: Path | None = None,
    calibration: Path | None = None,
    precision: str = "w8a8",
    decomposition: Path | None = None,
    calibrate: str = "minmax",
    equalise: bool = False,
    correct_bias: bool = False,
    outputs: Sequence[str] = (),
    fix: Sequence[str] = (),
    keep_state: bool = False,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Source:
    """Read a network and quantise it.

    The options have the names that they have on the command line.

    Parameters
    ----------
    model : zoo name, or path of an ``.onnx`` or ``.tflite`` file, or of a ``graph.npz`` that is
        integer already
    size : height and width of the input, one number if they are alike, the tokens of a text, or
        the one extent that a file leaves open; default the model's own
    layers : blocks of a zoo model that are kept, the first ones (of each stage, where it has
        stages); default all
    weights : state dict (``.pt``) or ``.onnx`` with the weights of a zoo model; default seeded ones
    calibration : directory of images or arrays, an image, or a file of arrays; see
        :func:`hwgen.models.frames.samples.calibration`
    precision : such as ``w8a8``, or a file; see
        :meth:`hwgen.models.quantisation.precision.Precision.parse`
    decomposition : file that says which layers become low rank, written by
        :func:`hwgen.models.compression.decomposition.to_json`
    calibrate : how ranges are chosen: ``minmax``, ``percentile`` or ``mse``
    equalise : whether scales are moved between layers first; see
        :mod:`hwgen.models.quantisation.equalise`
    correct_bias : whether biases make up for the rounding of weights; see
        :mod:`hwgen.models.quantisation.bias`
    outputs : tensors of the file at which the accelerator ends; what is behind is left to the host
    fix : inputs of a file that are always the same, each as ``name=value``; see
        :func:`hwgen.models.onnx.ids.fixed_values`
    keep_state : whether recurrent cells keep their states from frame to frame, and begin with
        zeros after a reset alone; states that a file takes as inputs then stay on the device; see
        :func:`hwgen.models.onnx.states.keep_states`
    mean, std : how images were normalised in the training of a file's network; arrays are taken as
        they are; see :class:`hwgen.models.onnx.normalisation.Normalisation`
    seed : of the weights, the crops and the noise
    progress : called with what is being done

    Raises
    ------
    :exc:`HwgenError`
        If the model is unknown, a file cannot be read, an option would have no effect on the
        model, or the network cannot be built.
    """
    from hwgen.models.frames import samples
    from hwgen.models.host.model import host_model
    from hwgen.models.host.whole import float_model
    from hwgen.models.lowering import lowered as lower
    from hwgen.models.onnx.normalisation import Normalisation
    from hwgen.models.quantisation import equalise as equalisation
    from hwgen.models.quantisation.calibrate import statistics

    bits = Precision.parse(precision)
    normalisation = Normalisation(tuple(mean), tuple(std)) if mean or std else None
    ways = {"precision": precision != "w8a8", "calibration method": calibrate != "minmax",
            "equalisation": equalise, "bias correction": correct_bias}
    if model.endswith(".npz"):
        _refuse(model, "is integer already", {
            **ways, "size": size, "layers": layers, "weights": weights, "calibration": calibration,
            "decomposition": decomposition, "outputs": outputs,
            "fixed input": fix, "keeping states": keep_state, "normalisation": mean or std,
        })
        return _integer(Path(model), seed)
    if normalisation is not None and not model.endswith((".onnx", ".tflite")):
        raise HwgenError(f"{model} takes images in 0..1 and normalises them itself: leave out mean "
                         f"and std")
    if fix and not model.endswith((".onnx", ".tflite")):
        raise HwgenError(f"{model} is of the zoo, whose inputs are not fixed: leave out fix")
    network, meta = _network(
        model, size, layers, weights, calibration, outputs, fix, keep_state, seed, progress)
    if normalisation is not None:
        network.normalised.update(samples.normalised(network, normalisation))
    whole = float_model(network)
    if decomposition is not None:
        progress("decompose")
        network, meta["decomposition"] = _decomposed(network, decomposition)
    progress("calibrate")
    feeds = samples.calibration(network, calibration, seed)
    more = [f"normalised by {normalisation}"] * bool(normalisation)
    more += [f"ranges by {calibrate}"]
    more += ["scales equalised"] * equalise + ["biases corrected"] * correct_bias
    meta["calibration"] = ", ".join([f"{len(feeds)} {feeds.origin}", *more])
    if equalise:
        network = equalisation.equalise(network, statistics(network, feeds).peaks)
    # It is asked about every tensor here, and so must not count what patterns match.
    widths = Precision.parse(precision).activations
    found = statistics(network, feeds, calibrate, widths)
    if calibration is not None and not feeds.images:
        _doubt(network, found.extremes, calibration)
    progress("quantise")
    lowered = lower(network, found.ranges, bits, found.means if correct_bias else {})
    graph = lowered.graph
    if not bits.asked:
        _refuse(model, "states the codes of all its weights and tensors", ways)
    if unused := bits.unused():
        raise HwgenError(
            f"Precision {precision}: pattern {unused[0]!r} matches no layer; names are those of "
            f"the nodes and tensors of the ONNX file"
        )
    if keep_state:
        meta["keep_state"] = True
    if network.fixed:
        meta["fixed"] = [f"{name}={value}" for name, value in network.fixed.items()]
    graph.meta = {**meta, "precision": str(bits), **graph.meta}
    host = host_model(network.model, network.host, network.constants, network.shapes,
                      lowered.outputs, graph)
    seeded = meta.get("seeded", False) or (bits.asked and feeds.seeded)
    return Source(graph, network, feeds, host, whole, bits.asked, seeded)


def _doubt(
    network: Network, extremes: Mapping[str, tuple[float, float]], path: Path
) -> None:
    """Warn of arrays that look as if they were scaled otherwise than images are.

    Parameters
    ----------
    network : the float network
    extremes : the smallest and the largest value of each input
    path : where the arrays came from
    """
    from hwgen.models.frames import samples

    for name in network.inputs:
        shape = network.shapes[name]
        if (len(shape) not in samples.PICTURED or name in network.integer_inputs
                or shape[samples.channel_axis(shape)] not in (1, 3)):
            continue
        normalisation = network.normalised.get(name)
        low, high = extremes[name]
        least, most = (0, 1) if normalisation is None else normalisation.range
        reach = f"{path}: the values for input {name!r} go from {low:.4g} to {high:.4g}"
        if low >= 0 and most < PIXELS < high <= 255:
            warnings.warn(
                f"{reach}, as pixels do, but images are shown to the network as "
                f"{'pixel / 255' if normalisation is None else 'normalised'}: scale the arrays "
                f"likewise, or give mean 0 and std {1 / 255:.8f} if it does take 0 to 255",
                HwgenWarning, stacklevel=3)
        elif normalisation is not None and least < -0.05 and low >= 0 and high <= 1:
            warnings.warn(
                f"{reach}, as images do before they are normalised, and arrays are taken as they "
                f"are: give images, or arrays normalised by {normalisation}",
                HwgenWarning, stacklevel=3)


def _refuse(model: str, why: str, given: Mapping[str, object]) -> None:
    """Refuse options, by what they are, that were given but would have no effect on a model."""
    for what, value in given.items():
        if value:
            raise HwgenError(f"{what.capitalize()} would have no effect on {model}, which {why}")


def _network(
    model: str, size: Size, layers: int | None, weights: Path | None, calibration: Path | None,
    outputs: Sequence[str], fix: Sequence[str], keep_state: bool, seed: int,
    progress: Callable[[str], None],
) -> tuple[Network, dict]:
    """The float network of a file or of the zoo, and where it comes from, as meta data.

    The parameters are those of :func:`read`.
    """
    from hwgen.models.frames import samples
    from hwgen.models.onnx import reader, tflite

    if model.endswith((".onnx", ".tflite")):
        if weights is not None:
            raise HwgenError(f"Weights go with a zoo model: {model} has its own")
        if layers is not None:
            raise HwgenError(f"Layers go with a zoo model: {model} is taken whole")
        progress("read")
        meta = {"model": Path(model).stem, "weights": "of the model's file"}
        if model.endswith(".tflite"):
            data = tflite.to_onnx(Path(model))
            return reader.normalise(data, model, size, outputs, fix=fix,
                                    keep_state=keep_state), meta
        return reader.read(Path(model), size, outputs, fix, keep_state), meta
    entry = zoo.find(model)
    if isinstance(size, tuple):
        raise HwgenError(f"{model} takes square images: give its size as one number, not "
                         f"{size[0]}x{size[1]}")
    extent, kept = entry.check_size(size), entry.check_layers(layers)
    if weights is not None and weights.suffix == ".onnx" and kept is not None:
        raise HwgenError(f"Layers go with a state dict: {weights} is taken whole")
    if weights is not None and weights.suffix == ".onnx":
        progress("read")
        network = reader.read(weights, extent, outputs, keep_state=keep_state)
    else:
        progress("export")
        photos = samples.pictures(calibration, (extent, extent), seed)
        exported = entry.export(extent, weights, photos, seed, kept)
        progress("read")
        network = reader.normalise(exported, model, None, outputs, keep_state=keep_state)
    return network, {
        "model": model, **entry.meta,
        "weights": str(weights) if weights else f"seeded with {seed}, not trained",
        "seeded": weights is None,
        **({} if kept is None else {"layers": kept}),
    }


def _decomposed(network: Network, path: Path) -> tuple[Network, dict]:
    """A network with the decompositions of a file, and these as plain data."""
    from hwgen.models.compression.decomposition import from_json
    from hwgen.models.compression.rewrite import decompose

    try:
        text = path.read_text()
    except OSError as error:
        raise HwgenError(f"Decomposition file {path} cannot be read: {reason(error)}") from None
    except UnicodeDecodeError:
        raise HwgenError(f"Decomposition file {path} is not text") from None
    return decompose(network, from_json(text)), json.loads(text)


def _integer(path: Path, seed: int) -> Source:
    """The graph of a file, with a float network that has no more than its inputs.

    What a build writes beside it goes with it: ``pre.json``, ``host.onnx`` and ``float.onnx``.
    """
    import onnx

    from hwgen.models.frames import samples
    from hwgen.models.host import inputs, model, whole
    from hwgen.models.onnx.network import Network
    from hwgen.models.onnx.quantisers import IntegerInput

    graph = Graph.load(path)
    given = inputs.matching(path.with_name("pre.json"), graph)
    if given is not None:
        network = inputs.network(given)
    else:
        shapes = {}
        for name, type in graph.inputs.items():
            axis = graph.meta.get("axes", {}).get(name, 1)
            shapes[name] = tuple(np.insert((1, *type.spatial), axis, type.channels).tolist())
        ids = {node.inputs[0]: IntegerInput(1.0, 0, 0, len(node.op.rows) - 1)
               for node in graph.nodes
               if isinstance(node.op, Embedding) and node.inputs[0] in graph.inputs}
        network = Network(onnx.ModelProto(), [], {}, shapes, list(graph.inputs), [],
                          integer_inputs=ids, ids=set(ids))
        given = inputs.described(graph, network)
    return Source(
        graph, network, samples.calibration(network, None, seed),
        model.matching(path.with_name("host.onnx"), graph),
        whole.matching(path.with_name("float.onnx"), given),
    )
