"""A build put to work: frames as the file takes them go in, the file's own outputs come out.

    python -m hwgen.run build/resnet8-zedboard [FRAMES] [--by reference|verilog] [--out FILE.npz]

Frames are codes for the accelerator by ``pre.json``, its outputs are made the file's own by
``host.onnx``; between them stands the integer reference, or the Verilog in Verilator::

    from hwgen.run import Accelerator

    accelerator = Accelerator.load("build/resnet8-zedboard")
    outputs = accelerator.run({"image": frames})                    # the reference
    outputs = accelerator.run({"image": frames}, by="verilog")      # the same, bit for bit
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from hwgen import extras
from hwgen.design import DesignPoint
from hwgen.errors import HwgenError, named_reason
from hwgen.ir import Graph
from hwgen.models.host.inputs import Input
from hwgen.models.host.inputs import load as load_inputs

__all__ = ["WAYS", "Accelerator"]

WAYS = "reference", "verilog"
"""What can compute the accelerator's outputs."""


@dataclass(frozen=True)
class Accelerator:
    """A build, as it was written into a directory.

    Members
    -------
    graph : the integer graph
    design : the design point
    inputs : the file's inputs
    host : from the accelerator's outputs to those of the file; None: there is no such part
    """

    graph: Graph
    design: DesignPoint
    inputs: tuple[Input, ...]
    host: onnx.ModelProto | None

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
                   matching(folder / "host.onnx", graph))

    def codes(self, frames: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the accelerator takes for frames of the file; see :meth:`Input.codes`.

        Raises
        ------
        :exc:`HwgenError`
            If an input is missing or unknown, of another shape, or has fewer frames than others.
        """
        names = [each.name for each in self.inputs]
        if set(frames) != set(names):
            raise HwgenError(f"The inputs are {', '.join(map(repr, names))}, not "
                             f"{', '.join(map(repr, frames)) or 'none'}")
        codes = {each.stream: each.codes(frames[each.name]) for each in self.inputs}
        if len({len(each) for each in codes.values()}) > 1:
            raise HwgenError("All inputs need as many frames as the others")
        return codes

    def run(
        self, frames: Mapping[str, np.ndarray], *, by: str = "reference"
    ) -> dict[str, np.ndarray]:
        """The file's outputs for some frames.

        Parameters
        ----------
        frames : by input of the file, float array ``(N, *shape[1:])``
        by : of :data:`WAYS`: the integer graph, or the emitted Verilog, simulated

        Returns
        -------
        :class:`dict`
            By output of the file an array with the frames in front; if there is no ``host.onnx``,
            by output of the accelerator its real values, channels last.

        Raises
        ------
        :exc:`HwgenError`
            If the frames do not fit, or the Verilog cannot be simulated.
        """
        codes = self.codes(frames)
        if by == "reference":
            made = self.graph.evaluate(codes)
        elif by == "verilog":
            made = self._simulated(codes)
        else:
            raise HwgenError(f"Outputs come by {' or '.join(WAYS)}, not {by!r}")
        return self._finished(made)

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
        from hwgen.models.onnx.session import session

        if self.host is None:
            return {name: self.graph.types[name].quantisation.dequantise(value)
                    for name, value in made.items()}
        host = session(self.host)
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
                        help="directory of images or arrays, or a file of arrays, as the network "
                             "takes them; default: crops of photographs, or noise")
    parser.add_argument("--by", choices=WAYS, default=WAYS[0],
                        help="what computes: the integer graph, or the Verilog in Verilator")
    parser.add_argument("--out", type=Path, metavar="FILE",
                        help="write the outputs to an .npz file")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    from hwgen.models.frames import samples
    from hwgen.models.onnx.network import Network

    accelerator = Accelerator.load(arguments.build)
    shapes = {each.name: each.shape for each in accelerator.inputs}
    network = Network(onnx.ModelProto(), [], {}, shapes, list(shapes), [])
    feeds = list(samples.calibration(network, arguments.frames))
    frames = {name: np.concatenate([feed[name] for feed in feeds]) for name in shapes}
    outputs = accelerator.run(frames, by=arguments.by)
    if arguments.out is not None:
        np.savez(arguments.out, **outputs)  # pyright: ignore[reportArgumentType]
    for name, value in outputs.items():
        print(f"{name}: {value.dtype} {value.shape}, {value.min():.6g} to {value.max():.6g}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 if something is wrong."""
    arguments = _parser().parse_args(argv)
    try:
        with extras.named():
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
