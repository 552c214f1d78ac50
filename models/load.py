"""From a model's name or file to the integer graph: the one road in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir import Graph
from hwgen.models import zoo
from hwgen.models.quantisation.precision import Precision

if TYPE_CHECKING:
    from onnx import ModelProto

    from hwgen.models.frames.samples import Feed, Feeds
    from hwgen.models.onnx.reader import Network

__all__ = ["Precision", "Source", "load", "read"]


def load(model: str, **options) -> Graph:
    """The integer graph of a network; see :func:`read`."""
    return read(model, **options).graph


@dataclass(frozen=True)
class Source:
    """An integer graph and where it came from.

    Members
    -------
    graph : the integer graph
    network : the float network that it stands for
    feeds : the frames that it was calibrated with
    host : what is left to the host, from the integer graph's outputs to the file's own; of an
        integer graph, the ``host.onnx`` that lies beside it, or None
    """

    graph: Graph
    network: Network
    feeds: Feeds
    host: ModelProto | None = None

    @property
    def left_to_host(self) -> list[dict[str, str]]:
        """The nodes of the file that the host computes.

        See :func:`hwgen.models.host.left_to_host`.
        """
        from hwgen.models.host import left_to_host

        return [] if self.host is None else left_to_host(self.host)

    def frames(self, count: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Integer inputs ``(count, *shape)``: photographs, pans over them, or noise.

        With the seed of the calibration, they are others than it had.
        """
        from hwgen.models.frames import images, samples

        photos = images.photographs(count, samples.extent(self.network) or (1, 1), seed + 1)
        return self._quantised(samples.feeds(self.network, photos, seed + 1))

    def calibration(self, count: int = 8) -> dict[str, np.ndarray]:
        """Integer inputs ``(count, *shape)``, or fewer: frames that it was calibrated with."""
        return self._quantised(islice(self.feeds, count))

    def _quantised(self, feeds: Iterable[Feed]) -> dict[str, np.ndarray]:
        """Integer inputs of float ones."""
        frames: dict[str, list[np.ndarray]] = {name: [] for name in self.graph.inputs}
        for feed in feeds:
            for (name, type), given in zip(
                self.graph.inputs.items(), self.network.inputs, strict=True
            ):
                frame = feed[given][0]
                if name in self.graph.meta.get("floats", ()):
                    frame = np.moveaxis(frame, 0, -1)
                frame = frame.reshape(type.shape)
                frames[name].append(type.quantisation.quantise(frame))
        return {name: np.stack(rows) for name, rows in frames.items()}


def read(
    model: str,
    *,
    size: int | None = None,
    weights: Path | None = None,
    calibration: Path | None = None,
    precision: str = "w8a8",
    decomposition: Path | None = None,
    method: str = "minmax",
    equalised: bool = False,
    corrected: bool = False,
    outputs: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Source:
    """Read a network and quantise it.

    Parameters
    ----------
    model : zoo name, or path of an ``.onnx`` file, or of a ``graph.npz`` that is integer already
    size : height and width of the input; default the model's own
    weights : state dict (``.pt``) or ``.onnx`` with the weights of a zoo model; default seeded ones
    calibration : directory of images or arrays, or a file of arrays; see
        :func:`hwgen.models.frames.samples.calibration`
    precision : such as ``w8a8``, or a file; see
        :meth:`hwgen.models.quantisation.precision.Precision.parse`
    decomposition : file that says which layers become low rank, of
        :func:`hwgen.models.compression.decomposition.to_json`
    method : of choosing ranges: ``minmax``, ``percentile`` or ``mse``
    equalised : scales are moved between layers first; see :mod:`hwgen.models.quantisation.equalise`
    corrected : biases make up for the rounding of weights; see
        :mod:`hwgen.models.quantisation.bias`
    outputs : tensors of the file at which the accelerator ends; what is behind is left to the host
    seed : of the weights and the crops
    progress : called with what is being done

    Raises
    ------
    :exc:`HwgenError`
        If the model is unknown, a file cannot be read, or the network cannot be built.
    """
    from hwgen.models.frames import samples
    from hwgen.models.host import host_model
    from hwgen.models.lowering import Lowering
    from hwgen.models.onnx import reader as onnx_import
    from hwgen.models.quantisation import calibrate
    from hwgen.models.quantisation.equalise import equalise

    bits = Precision.parse(precision)
    meta: dict = {}
    if model.endswith(".npz"):
        if weights or calibration or decomposition or size or equalised or corrected or outputs or (
                precision != "w8a8"):
            raise HwgenError(f"{model} is integer already: size, weights, precision, calibration, "
                             f"outputs and decomposition go with float networks")
        return _integer(Path(model), seed)
    if model.endswith(".onnx"):
        if weights is not None:
            raise HwgenError("--weights goes with a zoo model: an .onnx file has its own")
        progress("read")
        network = onnx_import.read(Path(model), size, outputs)
        meta |= {"model": Path(model).stem, "weights": "of the model's file"}
    else:
        entry = zoo.find(model)
        extent = entry.check_size(size)
        if weights is not None and weights.suffix == ".onnx":
            progress("read")
            network = onnx_import.read(weights, extent, outputs)
        else:
            progress("export")
            photos = samples.pictures(calibration, (extent, extent), seed)
            exported = entry.export(extent, weights, photos, seed)
            progress("read")
            network = onnx_import.normalise(exported, model, None, outputs)
        meta |= {"model": model, **entry.meta}
        meta["weights"] = str(weights) if weights else f"seeded with {seed}, not trained"
        meta["seeded"] = weights is None
    if decomposition is not None:
        from hwgen.models.compression.decomposition import from_json
        from hwgen.models.compression.rewrite import decompose

        progress("decompose")
        try:
            text = decomposition.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise HwgenError(f"{decomposition} cannot be read: {error}") from None
        network = decompose(network, from_json(text))
        meta["decomposition"] = json.loads(text)
    progress("calibrate")
    feeds = samples.calibration(network, calibration, seed)
    what = "crops of photographs" if samples.extent(network) else "frames of noise"
    source = f"frames of {calibration}" if calibration else f"{what}, seeded with {seed}"
    more = ["scales equalised"] * equalised + ["biases corrected"] * corrected
    meta["calibration"] = ", ".join([f"{len(feeds)} {source}", f"ranges by {method}", *more])
    if equalised:
        peaks = calibrate.statistics(network, feeds).peaks
        network = equalise(network, peaks)
    # Asked about every tensor: patterns that only this meets match no layer.
    widths = Precision.parse(precision).activations
    found = calibrate.statistics(network, feeds, method, widths)
    progress("quantise")
    lowered = Lowering(network, found.ranges, bits, found.means if corrected else {})
    graph = lowered.graph
    if not bits.asked:
        for name, away in (("precision", precision != "w8a8"), ("calibrate", method != "minmax"),
                           ("equalise", equalised), ("correct-bias", corrected)):
            if away:
                raise HwgenError(f"--{name} has no effect on {model}: it states the codes of all "
                                 f"its weights and tensors")
    if unused := bits.unused():
        raise HwgenError(
            f"Precision {precision}: pattern {unused[0]!r} matches no layer; names are those of "
            f"the nodes and tensors of the ONNX file"
        )
    graph.meta = {**meta, "precision": str(bits), **graph.meta}
    host = host_model(network.model, network.host, network.constants, network.shapes,
                      lowered.outputs, graph)
    return Source(graph, network, feeds, host)


def _integer(path: Path, seed: int) -> Source:
    """A graph with no more of a float network than the shapes of its inputs.

    The ``host.onnx`` that a build wrote beside it goes with it.
    """
    import onnx

    from hwgen.models.frames import samples
    from hwgen.models.host import matching
    from hwgen.models.onnx.reader import Network

    graph = Graph.load(path)
    shapes = {}
    for name, type in graph.inputs.items():
        floats = name in graph.meta.get("floats", ())
        shapes[name] = (1, type.channels, *type.spatial) if floats else (1, *type.shape)
    network = Network(onnx.ModelProto(), [], {}, shapes, list(graph.inputs), [])
    host = matching(path.with_name("host.onnx"), graph)
    return Source(graph, network, samples.calibration(network, None, seed), host)
