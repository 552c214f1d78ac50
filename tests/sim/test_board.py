"""The driver, the shell and the Verilog together, on a simulated board.

One small network has several inputs and outputs, lanes that do not divide a bus word, and outputs
of 16 bits; one has weights that are loaded, and off-chip memory with weights and a queue in it.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hwgen.design import DesignPoint
from hwgen.driver import (
    Accelerator,
    AcceleratorError,
    DriverError,
    Simulated,
    StuckError,
    WrongBitstreamError,
)
from hwgen.emit.manifest import ACCELERATOR_FILE, manifest
from hwgen.emit.verilog import Rtl, emit
from hwgen.errors import HwgenError
from hwgen.ir import Graph
from hwgen.offchip.bus import AxiConfig
from hwgen.shell.shell import ShellConfig
from hwgen.sim.verilator import lint
from hwgen.sim.verilator.board import compile_board
from hwgen.sim.verilator.memory import MemoryModel
from hwgen.timing import sized
from tests.networks import Builder, two_inputs
from tests.sim.test_offchip import decoder

pytestmark = pytest.mark.verilator

FRAMES = 6
IDENTIFICATION = 0xFEDC_BA98_7654_3210


NETWORKS: dict[str, Callable[[], tuple[Builder, DesignPoint]]] = {
    "plain": two_inputs, "decoder": decoder,
}


@dataclass(frozen=True)
class Case:
    """A build, its board, and what the network is to give."""

    folder: Path
    program: Path
    graph: Graph
    interval: int

    def frames(self, count: int = FRAMES, seed: int = 1) -> dict[str, np.ndarray]:
        random = np.random.default_rng(seed)
        return {name: random.integers(type.quantisation.low, type.quantisation.high + 1,
                                      (count, *type.shape))
                for name, type in self.graph.inputs.items()}

    def check(self, accelerator: Accelerator, count: int = FRAMES, seed: int = 1,
              **options) -> None:
        """Run frames, and compare codes."""
        frames = self.frames(count, seed)
        found = accelerator.run(frames, codes=True, **options)
        assert isinstance(found, dict)
        for name, wanted in self.graph.evaluate(frames).items():
            np.testing.assert_array_equal(found[name], wanted)

    def check_until_it_fails(self, accelerator: Accelerator) -> None:
        """Runs that end before that are right."""
        for seed in range(30):
            self.check(accelerator, 2, seed)

    @contextmanager
    def board(self, memory: MemoryModel | None = None, **options) -> Iterator[Accelerator]:
        """The accelerator on its board, with a memory."""
        settings = None
        if memory is not None:
            settings = self.folder / f"settings_{os.getpid()}"
            settings.write_text(memory.settings())
        with Accelerator(self.folder, Simulated(self.program, settings), **options) as made:
            yield made


def build(name: str, folder: Path) -> Case:
    """A network, compiled with its shell and memory."""
    b, design = NETWORKS[name]()
    _, netlist, timing = sized(b.graph, design)
    axi = AxiConfig() if netlist.offchip is None else netlist.offchip.axi
    config = ShellConfig(netlist=netlist, axi=axi, identification=IDENTIFICATION)
    rtl = emit(netlist, shell=config)
    program = compile_board(rtl, config, folder, optimise=False)
    lint(rtl, folder / "rtl")
    about = {"model": name, "board": design.board, "clock_mhz": design.clock_mhz}
    (folder / ACCELERATOR_FILE).write_text(json.dumps(manifest(config, rtl, about)))
    return Case(folder, program, b.graph, timing.interval)


@pytest.fixture(scope="module", params=NETWORKS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Each of the networks, compiled by whichever worker comes first."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / (
        f"board_{request.param}")
    folder.mkdir(exist_ok=True)
    made = folder / "case"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            made.write_bytes(pickle.dumps(build(request.param, folder)))
    return pickle.loads(made.read_bytes())


def test_frames_at_the_interval(case: Case) -> None:
    """As many at once, a few, and one at a time; none; the rate is the predicted one."""
    with case.board() as accelerator:
        case.check(accelerator, 12)
        status = accelerator.status()
        assert status["frame_cycles"] == case.interval
        assert status["frames_in"] == status["frames_out"] == 12
        case.check(accelerator, 5, seed=2, batch=2)
        done: list[tuple[int, int]] = []
        case.check(accelerator, 3, seed=3, batch=1, progress=lambda *at: done.append(at))
        assert done == [(1, 3), (2, 3), (3, 3)]
        nothing = accelerator.run(case.frames(0), codes=True)
        assert isinstance(nothing, dict)
        assert {name: len(each) for name, each in nothing.items()} == dict.fromkeys(
            accelerator.outputs, 0)
        assert accelerator.status()["frames_out"] == 20
        assert accelerator.errors == ()
        values = accelerator.run(case.frames())
        assert isinstance(values, dict)
        for name, wanted in case.graph.evaluate(case.frames()).items():
            q = case.graph.types[name].quantisation
            exact = (wanted.astype(int) - q.zero_point) * q.scale
            np.testing.assert_allclose(values[name], exact, rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_memory_that_is_slow_and_pauses(case: Case, seed: int) -> None:
    random = np.random.default_rng(seed)
    model = MemoryModel(
        back_pressure=float(random.choice([0.1, 0.3, 0.7])),
        jitter=int(random.choice([0, 30, 300])), gbps=float(random.choice([4, 20, 150])), seed=seed)
    with case.board(model) as accelerator:
        case.check(accelerator, seed=seed)
        case.check(accelerator, seed=seed + 1, batch=1 + seed)


def test_in_the_background(case: Case) -> None:
    with case.board() as accelerator:
        frames = [case.frames(2, seed) for seed in range(3)]
        runs = [accelerator.run_async(each, codes=True) for each in frames]
        for each, run in zip(frames, runs, strict=True):
            found = run.result()
            assert isinstance(found, dict)
            for name, wanted in case.graph.evaluate(each).items():
                np.testing.assert_array_equal(found[name], wanted)


@pytest.mark.parametrize("gap", [1, 37])
def test_frames_at_a_distance(case: Case, gap: int) -> None:
    """With a stride of more than a frame: what lies between stays as it was."""
    with case.board() as accelerator:
        transport, count, buffers = accelerator.transport, 4, {}
        frames = case.frames(count)
        ports = {**accelerator.inputs, **accelerator.outputs}
        word = accelerator.manifest.data["word_bytes"]
        for name, port in ports.items():
            stride = port.stride + gap * word
            buffer = buffers[name] = transport.allocate(count * stride)
            buffer.array[:] = 0xA5
            if name in frames:
                rows = buffer.array.reshape(count, stride)
                rows[:, : port.stride] = port.pack(frames[name])
            transport.flush(buffer)
            accelerator._argument(f"stride_{name}", stride)
        accelerator._go(count, buffers)
        for name, wanted in case.graph.evaluate(frames).items():
            port, buffer = ports[name], buffers[name]
            transport.invalidate(buffer)
            rows = buffer.array.reshape(count, -1)
            np.testing.assert_array_equal(port.unpack(rows[:, : port.stride].copy()), wanted)
            assert (rows[:, port.stride :] == 0xA5).all()
            accelerator._argument(f"stride_{name}", 0)
        for name in frames:
            accelerator._argument(f"stride_{name}", 0)
        case.check(accelerator)


@pytest.mark.parametrize("at", [0, 3, 17])
@pytest.mark.parametrize("fault", ["read_slverr", "read_decerr", "write_slverr", "write_decerr"])
def test_faults(case: Case, fault: str, at: int) -> None:
    """What fails is named, nothing is returned, and after the soft reset all is well."""
    with case.board(MemoryModel(fault=f"{fault}:{at}", seed=at)) as accelerator:
        with pytest.raises(AcceleratorError) as caught:
            case.check_until_it_fails(accelerator)
        (cause,) = caught.value.causes
        assert cause.endswith(f"memory {fault[-6:].upper()}")
        assert f"The accelerator reports {cause}: the frames" in str(caught.value)
        assert accelerator.errors == ()
        case.check(accelerator, seed=100)


@pytest.mark.parametrize("at", [0, 30])
def test_a_memory_that_falls_silent(case: Case, at: int) -> None:
    """A time-out is reported; on a board that was reset, all is well again."""
    with case.board(MemoryModel(fault=f"silent:{at}")) as accelerator:
        with pytest.raises(AcceleratorError, match="memory time-out"):
            case.check_until_it_fails(accelerator)
    with case.board() as accelerator:
        case.check(accelerator)


def test_a_run_that_takes_too_long(case: Case) -> None:
    with case.board() as accelerator:
        accelerator.timeout = 0.0
        with pytest.raises(StuckError, match=r"^A run of 6 frames did not end within 0 s: [0-9]+ "
                                             r"went in and [0-9]+ came out; it was reset$"):
            case.check(accelerator)
        accelerator.timeout = 60.0
        case.check(accelerator)


@pytest.mark.parametrize("cycles", [1, 30, 100, 400, 1500])
def test_soft_reset_in_the_middle(case: Case, cycles: int) -> None:
    with case.board(MemoryModel(back_pressure=0.2, jitter=20)) as accelerator:
        transport = accelerator.transport
        assert isinstance(transport, Simulated)
        buffers = {name: transport.allocate(9 * port.stride)
                   for name, port in (*accelerator.inputs.items(), *accelerator.outputs.items())}
        for turn in range(2):
            accelerator._argument("frames", 9)
            for name, buffer in buffers.items():
                accelerator._argument(f"address_{name}", buffer.address)
            transport.write32(0, 1)
            transport.ask(f"i {cycles + 13 * turn:x}")
            accelerator.reset()
            assert set(accelerator.status().values()) <= {0}
            case.check(accelerator, seed=turn)


def test_hard_reset(case: Case) -> None:
    """It takes the arguments, too: the accelerator is made anew."""
    transport = Simulated(case.program)
    accelerator = Accelerator(case.folder, transport)
    case.check(accelerator)
    accelerator.transport.write32(0, 1)
    transport.ask("i 40")
    transport.reset()
    with Accelerator(case.folder, transport) as accelerator:
        case.check(accelerator)


def test_another_design(case: Case, tmp_path: Path) -> None:
    file = tmp_path / ACCELERATOR_FILE
    data = json.loads((case.folder / ACCELERATOR_FILE).read_text())
    for change, message in (
            ({"identification": "0123456789abcdef"},
             f"^The device says it is fedcba9876543210, {tmp_path} is 0123456789abcdef: load"),
            ({"version": 99}, r"^The device has registers of version 1, this build of 99$")):
        file.write_text(json.dumps(data | change))
        with pytest.raises(WrongBitstreamError, match=message):
            Accelerator(file, Simulated(case.program))


def test_frames_outside_the_memory(case: Case) -> None:
    """The simulated board says so, and ends."""
    with case.board() as accelerator:
        transport = accelerator.transport
        buffers = {name: transport.allocate(port.stride)
                   for name, port in (*accelerator.inputs.items(), *accelerator.outputs.items())}
        for buffer in buffers.values():
            buffer.address = 0x8000_0000
        with pytest.raises(DriverError, match="is outside the memory"):
            accelerator._go(1, buffers)


def test_a_board_that_has_ended(case: Case, tmp_path: Path) -> None:
    with pytest.raises(DriverError, match=r"^The simulated board has ended: "):
        Accelerator(case.folder, Simulated(case.program, tmp_path / "none"))


def test_words_of_two_sizes_are_not_simulated(tmp_path: Path) -> None:
    b, design = decoder()
    _, netlist, _ = sized(b.graph, design)
    config = ShellConfig(netlist=netlist, axi=AxiConfig(data_bits=64))
    with pytest.raises(HwgenError, match=r"^Frames and off-chip memory must have words of one size "
                                         r"to be simulated, not 64 and 128 bits$"):
        compile_board(Rtl("top", {}), config, tmp_path)
