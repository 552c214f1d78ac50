"""The whole road from a network to a proven design, as one call: what the command line runs.

    from hwgen.flow import Options, build

    built = build(Options("resnet8", "zedboard", target_fps=100, simulate=4))
    built.report["interval_cycles"], built.simulated.mismatches
    built.write(Path("out"))
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import hwgen.boards as boards
from hwgen import options
from hwgen.boards import Board
from hwgen.design import DesignPoint
from hwgen.dse.design.check import complete
from hwgen.dse.design.found import Found
from hwgen.dse.design.search import search
from hwgen.emit import projects
from hwgen.emit.header import HEADER_FILE, header
from hwgen.emit.manifest import ACCELERATOR_FILE, identify, manifest
from hwgen.emit.verilog import Rtl, emit
from hwgen.errors import HwgenError
from hwgen.offchip.bus import AxiConfig
from hwgen.options import MEASURE, Options
from hwgen.output import Output
from hwgen.provenance import provenance
from hwgen.report.figures import report, sparsity
from hwgen.report.page import render
from hwgen.shell.shell import ShellConfig, room

if TYPE_CHECKING:
    from hwgen.dse.sparse.statistics import Statistics
    from hwgen.models.accuracy import Accuracy
    from hwgen.models.load import Source
    from hwgen.sim.verilator import Proof

__all__ = ["Built", "Options", "Phase", "Prepared", "build", "quiet"]

Phase = Callable[[str], AbstractContextManager[Callable[[str], None]]]
"""Called with the name of a phase: a context in which it runs, which gives a function to be called
with what is being done."""


@contextmanager
def quiet(name: str) -> Iterator[Callable[[str], None]]:
    """A phase of which nothing is shown."""
    yield lambda detail: None


@dataclass
class Built:
    """What was built.

    Members
    -------
    source : the network
    board : what it is for
    found : the design, its netlist and its timing
    report : what ``report.json`` holds
    rtl : the Verilog; None if only a report was wanted
    shell : what is around the accelerator; None if that was not asked for
    project : files of a project around the Verilog, by path; none if that was not asked for
    accuracy, statistics, simulated : what was measured, as far as it was asked for
    """

    source: Source
    board: Board
    found: Found
    report: dict = field(default_factory=dict)
    rtl: Rtl | None = None
    shell: ShellConfig | None = None
    project: dict[str, str] = field(default_factory=dict)
    accuracy: Accuracy | None = None
    statistics: Statistics | None = None
    simulated: Proof | None = None

    def write(self, out: str | Path) -> None:
        """Write what the command writes into a directory, which need not exist.

        As with the command, files of an earlier build are replaced, the user's stay, and a
        directory of others is refused; see :class:`hwgen.output.Output`.

        Raises
        ------
        :exc:`HwgenError`
            If the directory holds what no build wrote, or cannot be written.
        """
        with Output(Path(out)).replaced() as folder:
            self.fill(folder)

    def fill(self, folder: Path) -> None:
        """Write design, network, report, page and Verilog into a directory that is there."""
        from hwgen.models.host import inputs

        self.found.design.save(folder / "design.json")
        self.source.graph.save(folder / "graph.npz")
        inputs.save(inputs.described(self.source.graph, self.source.network), folder / "pre.json")
        if self.source.host is not None:
            (folder / "host.onnx").write_bytes(self.source.host.SerializeToString())
        if self.source.whole is not None:
            (folder / "float.onnx").write_bytes(self.source.whole.SerializeToString())
        if self.statistics is not None:
            self.statistics.save(folder / "sparsity.npz")
        if self.rtl is not None:
            self.rtl.write(folder / "rtl")
        if self.rtl is not None and self.shell is not None:
            about = {key: self.report[key] for key in ("model", "board", "clock_mhz")}
            data = manifest(self.shell, self.rtl, about)
            (folder / ACCELERATOR_FILE).write_text(json.dumps(data, indent=1) + "\n")
            (folder / HEADER_FILE).write_text(header(data, len(self.rtl.weights)))
        projects.write(self.project, folder)
        page = render(self.report, self.found.netlist, self.board.resources)
        (folder / "report.html").write_text(page, encoding="utf-8")
        (folder / "report.json").write_text(json.dumps(self.report, indent=1) + "\n")


@dataclass(frozen=True)
class Prepared:
    """What was asked for, checked as far as that goes without reading the network.

    Members
    -------
    asked : what to build
    board : what it is for
    design : the design that was given; None: one is searched
    given : names of the options that were given
    spelled : how messages spell an option
    """

    asked: Options
    board: Board
    design: DesignPoint | None
    given: Collection[str]
    spelled: Callable[[str], str]

    @classmethod
    def of(
        cls, asked: Options, given: Collection[str] | None = None,
        spelled: Callable[[str], str] = str,
    ) -> Prepared:
        """Check what was asked for.

        Parameters
        ----------
        asked : what to build
        given : names of the options that were given, which must not be without effect; default
            those that are not at their defaults
        spelled : how messages spell an option

        Raises
        ------
        :exc:`HwgenError`
            If options do not go together, or if the board, the clock, the project, a mean, a
            standard deviation or the design file is wrong.
        """
        given = asked.given if given is None else given
        options.check(given, asked.model, spelled)
        board = boards.load(asked.board)
        board.check_clock(asked.clock or board.clock_mhz, spelled("clock"))
        if asked.project and projects.kind(asked.project, board).shell and (
                asked.shell == "streams"):
            raise HwgenError(f"{spelled('project')} {asked.project} needs frames in memory, not in "
                             f"streams: leave out {spelled('shell')} streams")
        if asked.mean or asked.std:
            from hwgen.models.onnx.normalisation import Normalisation

            Normalisation(asked.mean, asked.std)
        design = DesignPoint.load(asked.design) if asked.design else None
        return cls(asked, board, design, given, spelled)


def build(
    what: Options | Prepared, *, phase: Phase = quiet,
    show: Callable[[object], None] = lambda _: None, command: str = "from Python",
) -> Built:
    """Build a network for a board; nothing is written before :meth:`Built.write`.

    Parameters
    ----------
    what : what to build
    phase : what each phase runs in
    show : called with tables that are ready before the end
    command : what the report calls the origin

    Raises
    ------
    :exc:`HwgenError`
        If something that was given is wrong, does not go together, or does not fit the board.
    """
    ready = what if isinstance(what, Prepared) else Prepared.of(what)
    asked, board = ready.asked, ready.board
    # Imported here: it is the slowest import, and wrong options should not wait for it.
    from hwgen.models.load import read

    with phase("network") as say:
        source = read(
            asked.model, size=asked.size, layers=asked.layers, weights=asked.weights,
            calibration=asked.calibration, calibrate=asked.calibrate, equalise=asked.equalise,
            correct_bias=asked.correct_bias, precision=asked.precision,
            decomposition=asked.decomposition, outputs=asked.outputs, fix=asked.fix,
            keep_state=asked.keep_state, mean=asked.mean, std=asked.std, seed=asked.seed,
            progress=say,
        )
    options.check_frames(
        ready.given, asked.model, calibrated=source.calibrated, seeded=source.seeded,
        drawn=source.feeds.seeded, spelled=ready.spelled)
    # A project of a kind that has to have a shell has one around frames in memory.
    frames = asked.shell or ("memory" if asked.project and projects.KINDS[asked.project].shell
                             else "")
    accuracy = statistics = None
    if asked.accuracy:
        from hwgen.models.accuracy import measure

        with phase("accuracy"):
            accuracy = measure(source.network, source.graph, source.feeds)
        show(accuracy.table())
    if asked.sparse is not None:
        with phase("sparsity"):
            statistics = _statistics(source, asked.sparse)
    with phase("search") as say:
        if ready.design is not None:
            found = complete(source.graph, board, ready.design, str(asked.design))
        else:
            wanted = board if not frames else replace(board, reserved=room(
                len(source.graph.inputs), len(source.graph.outputs), _frames_axi(board),
                frames, board.family))
            found = search(
                source.graph, wanted, clock_mhz=asked.clock, target_fps=asked.target_fps,
                objective=asked.objective, offchip=asked.offchip, statistics=statistics,
                progress=say,
            )
    built = Built(source, board, found, accuracy=accuracy, statistics=statistics)
    origin = provenance(command, asked.model, f"{board.name}, {board.part}", source.graph.meta,
                        asked.files)
    if not asked.report_only:
        with phase("emit") as say:
            built.shell = _shell(built, frames) if frames else None
            built.rtl = emit(found.netlist, prefix=asked.prefix, progress=say, provenance=origin,
                             shell=built.shell)
        if asked.project:
            built.project = projects.contents(asked.project, projects.Project(
                model=asked.name, board=board, clock_mhz=found.design.clock_mhz,
                netlist=found.netlist, rtl=built.rtl, shell=built.shell))
    if built.rtl is not None and asked.simulate:
        from hwgen.sim.verilator import prove

        with phase("simulate") as say:
            built.simulated = prove(
                source.frames(asked.simulate, asked.seed), source.graph, found.netlist,
                built.rtl.accelerator,
                board=board, clock_mhz=found.design.clock_mhz, interval=found.timing.interval,
                seed=asked.seed, progress=say,
            )
    built.report = _report(built, asked.name, origin)
    return built


def _frames_axi(board: Board) -> AxiConfig:
    """The port to frames in memory."""
    widths = [memory.axi_bits for memory in board.memory if memory.axi_bits >= 32]
    return AxiConfig(data_bits=widths[0]) if widths else AxiConfig()


def _shell(built: Built, frames: str) -> ShellConfig:
    """The shell of a design, which knows itself by the design and the network."""
    netlist, board = built.found.netlist, built.board
    with TemporaryDirectory() as folder:
        built.found.design.save(Path(folder) / "design.json")
        built.source.graph.save(Path(folder) / "graph.npz")
        parts = [(Path(folder) / name).read_bytes() for name in ("design.json", "graph.npz")]
    axi = netlist.offchip.axi if netlist.offchip is not None else _frames_axi(board)
    return ShellConfig(netlist=netlist, axi=axi, frames=frames,
                       identification=identify(board.part, *parts),
                       address_bits=64 if board.platform else 0)


def _statistics(source: Source, path: str) -> Statistics:
    """Statistics of zeros: of a file, or of the frames that the network was calibrated with."""
    from hwgen.dse.sparse.statistics import Statistics, measure

    if path != MEASURE:
        return Statistics.load(path, source.graph)
    return measure(source.graph, source.calibration())


def _report(built: Built, name: str, origin: dict[str, str]) -> dict:
    """What ``report.json`` holds."""
    found, board, meta = built.found, built.board, built.source.graph.meta
    data = report(
        found.netlist, found.design, model=name, interval=found.timing.interval,
        latency=found.timing.latency, first_output=found.timing.first_output,
        board=board.resources, usable=board.usable,
    )
    data |= {"seeded": bool(meta.get("seeded")), "provenance": origin, "search": found.plain()}
    if found.netlist.sparse:
        known = built.statistics
        densities = {} if known is None else {
            name: known[name].mean_density for name in found.netlist.sparse}
        data["sparsity"] = sparsity(found.netlist, known.source if known else "the design",
                                    densities, data["seeded"])
    if built.accuracy is not None:
        data |= built.accuracy.plain()
    if built.shell is not None:
        data["shell"] = asdict(built.shell.area().resources(board.family))
    if built.source.host is not None:
        data["host"] = built.source.left_to_host
    if built.simulated is not None:
        data["simulated"] = built.simulated.plain()
    return data
