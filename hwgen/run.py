"""A build put to work: frames as the file takes them go in, the file's own outputs come out.

    python -m hwgen.run build/resnet8-zedboard [FRAMES] [--by reference|verilog|float]

Frames become codes for the accelerator by ``pre.json``, and its outputs become the file's own by
``host.onnx``; between them stands the integer reference, or the Verilog in Verilator.  The float
network of the file is ``float.onnx``, which onnxruntime runs::

    from hwgen.run import Accelerator

    accelerator = Accelerator.load("build/resnet8-zedboard")
    outputs = accelerator.run({"image": frames})                    # the reference
    outputs = accelerator.run({"image": frames}, by="verilog")      # the same, bit for bit
    outputs = accelerator.run({"image": frames}, by="float")        # what they approximate
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from hwgen import extras
from hwgen.design import DesignPoint
from hwgen.errors import HwgenError, HwgenWarning, named_reason
from hwgen.ir import Graph
from hwgen.models.host.inputs import Input
from hwgen.models.host.inputs import load as load_inputs

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from hwgen.models.frames.samples import Feeds
    from hwgen.models.host.whole import WholeNetwork

__all__ = ["WAYS", "Accelerator"]

WAYS = "reference", "verilog", "float"
"""What can compute the file's outputs."""
BATCH = 8
"""Frames that the command computes at once, unless they are simulated."""


@dataclass(frozen=True)
class Accelerator:
    """A build, as it was written into a directory.

    Members
    -------
    graph : the integer graph
    design : the design point
    inputs : the file's inputs
    host : from the accelerator's outputs to those of the file; None: there is no such part
    folder : the directory
    """

    graph: Graph
    design: DesignPoint
    inputs: tuple[Input, ...]
    host: onnx.ModelProto | None
    folder: Path

    @classmethod
    def load(cls, folder: str | Path) -> Accelerator:
        """Read the directory of a build.

        Raises
        ------
        :exc:`HwgenError`
            If a file is missing, damaged, or does not belong to the others.
        """
        from hwgen.models.host.model import matching

        folder = Path(folder)
        if not folder.is_dir():
            raise HwgenError(f"{folder} is not a directory that a build wrote")
        graph = Graph.load(folder / "graph.npz")
        inputs = load_inputs(folder / "pre.json")
        if {each.stream: each.type for each in inputs} != graph.inputs:
            raise HwgenError(f"{folder / 'pre.json'} does not belong to graph.npz beside it")
        return cls(graph, DesignPoint.load(folder / "design.json"), tuple(inputs),
                   matching(folder / "host.onnx", graph), folder)

    def codes(self, frames: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the accelerator takes for frames of the file.

        Values that no code stands for are clipped, with a :exc:`HwgenWarning`.

        Parameters
        ----------
        frames : by input of the file, array ``(N, *shape[1:])`` of what the file takes

        Returns
        -------
        by input of the accelerator, integers ``(N, *frame)``, channels last

        Raises
        ------
        :exc:`HwgenError`
            If an input is missing or unknown, of another shape or type, has fewer frames than
            others, or none.
        """
        self._check(frames)
        return {each.stream: each.codes(frames[each.name]) for each in self.inputs}

    def _check(self, frames: Mapping[str, np.ndarray]) -> None:
        """Refuse frames that are not those of all inputs."""
        names = [each.name for each in self.inputs]
        if set(frames) != set(names):
            raise HwgenError(f"The inputs are {', '.join(map(repr, names))}, not "
                             f"{', '.join(map(repr, frames)) or 'none'}")
        if len({len(each) if np.ndim(each) else 0 for each in frames.values()}) > 1:
            raise HwgenError("All inputs need as many frames as the others")
        if not all(map(np.size, frames.values())):
            raise HwgenError("There must be at least one frame")

    def run(
        self, frames: Mapping[str, np.ndarray], *, by: str = "reference"
    ) -> dict[str, np.ndarray]:
        """The file's outputs for some frames.

        Parameters
        ----------
        frames : by input of the file, array ``(N, *shape[1:])`` of what the file takes: floats, or
            integers if it takes such
        by : of :data:`WAYS`: the integer graph; the emitted Verilog, simulated; or the file's own
            network in float, by onnxruntime

        Returns
        -------
        :class:`dict`
            By output of the file an array with the frames in front; if there is no ``host.onnx``,
            by output of the accelerator its real values, channels last.

        Raises
        ------
        :exc:`HwgenError`
            If the frames do not fit, the Verilog cannot be simulated, or the build has no float
            network.
        """
        if by not in WAYS:
            raise HwgenError(f"Outputs come by {', '.join(WAYS[:-1])} or {WAYS[-1]}, not {by!r}")
        if by == "float":
            self._check(frames)
            return self._whole.run(
                {each.name: each.real(frames[each.name]) for each in self.inputs})
        codes = self.codes(frames)
        return self._finished(
            self.graph.evaluate(codes) if by == "reference" else self._simulated(codes))

    @cached_property
    def _whole(self) -> WholeNetwork:
        """The file's network in float."""
        from hwgen.models.host.whole import WholeNetwork

        return WholeNetwork(self.folder / "float.onnx", self.inputs)

    @cached_property
    def _host(self) -> InferenceSession | None:
        """The host's part, to run."""
        from hwgen.models.onnx.session import session

        return None if self.host is None else session(self.host)

    def _simulated(self, codes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of the Verilog of the design."""
        from hwgen.emit.verilog import emit
        from hwgen.plan import plan
        from hwgen.sim.verilator import VerilatorModel

        netlist = plan(self.graph, self.design)
        with tempfile.TemporaryDirectory() as folder:
            return VerilatorModel(emit(netlist), netlist, Path(folder)).run(codes).outputs

    def _finished(self, made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The file's outputs, from the accelerator's."""
        from hwgen.models.host.model import input_name

        host = self._host
        if host is None:
            return {name: self.graph.types[name].quantisation.dequantise(value)
                    for name, value in made.items()}
        names = [output.name for output in host.get_outputs()]
        rows = []
        for k in range(len(next(iter(made.values())))):
            feed = {input_name(name): value[k : k + 1] for name, value in made.items()}
            rows.append(host.run(names, feed))
        return {name: np.concatenate([np.asarray(row[k]) for row in rows])
                for k, name in enumerate(names)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hwgen.run", description="Run frames through a build")
    parser.add_argument("build", type=Path, metavar="DIR", help="directory that a build wrote")
    parser.add_argument("frames", type=Path, nargs="?", metavar="FRAMES",
                        help="directory of images of any size, or an image; directory or file of "
                             "arrays, as the network takes them; default: crops of photographs, or "
                             "noise")
    parser.add_argument("--by", choices=WAYS, default=WAYS[0],
                        help="what computes: the integer graph, the Verilog in Verilator, or the "
                             "file's own network in float")
    parser.add_argument("--compare", action="store_true",
                        help="say how far the outputs are from those by float")
    parser.add_argument("--out", type=Path, metavar="FILE",
                        help="write the outputs to an .npz file")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    from hwgen.models.frames import samples
    from hwgen.models.host.inputs import network

    if arguments.compare and arguments.by == "float":
        raise HwgenError("--compare has no effect with --by float: that is what it compares with")
    accelerator = Accelerator.load(arguments.build)
    if arguments.compare and accelerator.host is None:
        raise HwgenError(f"--compare: {arguments.build} has no host.onnx that fits, so it does not "
                         f"give the file's outputs: build from the network's own file or name")
    feeds = samples.calibration(network(accelerator.inputs), arguments.frames, limit=None)
    print(f"{feeds.origin}: {len(feeds)}")
    if feeds.images:
        _doubt_images(accelerator.inputs)
    outputs = _outputs(accelerator, feeds, arguments.by)
    if arguments.out is not None:
        # By its name alone it would have .npz added to it.
        with open(arguments.out, "wb") as file:
            np.savez(file, **outputs)  # pyright: ignore[reportArgumentType]
    wanted = _outputs(accelerator, feeds, "float") if arguments.compare else {}
    for name, value in outputs.items():
        ends = f", {value.min():.6g} to {value.max():.6g}" if value.size else ""
        away = f"; {_likeness(value, wanted[name])}" if wanted else ""
        print(f"{name}: {value.dtype} {value.shape}{ends}{away}")


def _outputs(accelerator: Accelerator, feeds: Feeds, by: str) -> dict[str, np.ndarray]:
    """Outputs for all frames; those that are simulated go in without a gap."""
    rows = iter(feeds)
    size = len(feeds) if by == "verilog" else BATCH
    made = []
    for _ in range(0, len(feeds), size):
        batch = [feed for _, feed in zip(range(size), rows)]
        made.append(accelerator.run(
            {name: np.concatenate([feed[name] for feed in batch]) for name in batch[0]}, by=by))
    return {name: np.concatenate([each[name] for each in made]) for name in made[0]}


def _likeness(value: np.ndarray, wanted: np.ndarray) -> str:
    """How near an output is to that of the float network, in words."""
    from hwgen.models.accuracy import decibels

    if value.shape != wanted.shape:
        return f"by float it has the shape {wanted.shape}"
    if value.dtype.kind != "f":
        return f"{np.mean(value == wanted):.1%} are those by float"
    real = wanted.astype(np.float64)
    noise = np.square(real - value).sum()
    return f"{decibels(np.square(real).sum(), noise):.1f} dB to those by float"


def _doubt_images(inputs: Sequence[Input]) -> None:
    """Warn of inputs that were calibrated on something else than images in 0..1."""
    from hwgen.models.frames.samples import PICTURED

    for each in inputs:
        low, high = each.range
        if (len(each.shape) in PICTURED and each.integer is None and not each.mean
                and (low < -0.05 or high > 1.05)):
            warnings.warn(
                f"Input {each.name!r} is shown images as pixel / 255, but was calibrated on "
                f"{low:.4g} to {high:.4g}: build with --mean and --std if the network was trained "
                f"on normalised images, or give arrays", HwgenWarning, stacklevel=2)


@contextmanager
def _shown_warnings() -> Iterator[None]:
    """Shows each :class:`HwgenWarning` in a line, and the same only once."""
    def show(message, category, filename, lineno, file=None, line=None) -> None:
        if not issubclass(category, HwgenWarning):
            before(message, category, filename, lineno, file, line)
        elif str(message) not in seen:
            seen.add(str(message))
            print(f"hwgen: warning: {message}", file=sys.stderr)

    seen: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", HwgenWarning)
        before, warnings.showwarning = warnings.showwarning, show
        yield


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 if something is wrong."""
    arguments = _parser().parse_args(argv)
    try:
        with extras.named(), _shown_warnings():
            _run(arguments)
    except HwgenError as error:
        print(f"hwgen: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"hwgen: {named_reason(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
