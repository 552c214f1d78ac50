"""The driver above a model of the hardware: packing, errors, and all transports that run here."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen import driver
from hwgen.driver import Accelerator, DriverError, Manifest, Pynq, Uio, WrongBitstreamError, Xrt
from hwgen.driver.places import PAGE, Places
from hwgen.driver.transport import Memory
from hwgen.driver.xrt import SOURCE
from hwgen.emit.header import header
from hwgen.ir import Quantisation, TensorType
from hwgen.parts.stream import StreamType
from hwgen.top import beat_bytes, from_axi, to_axi
from tests.driver.fake_pynq import fake_pynq
from tests.driver.model import (
    BASE,
    CONTROL,
    IDENTIFICATION,
    MANIFEST,
    SIZE,
    START,
    WEIGHTS,
    Model,
    evaluate,
)
from tests.driver.suite import check, check_all, frames

ROOT = Path(__file__).parents[2]


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A build's directory."""
    (tmp_path / "accelerator.json").write_text(json.dumps(MANIFEST))
    (tmp_path / "weights.bin").write_bytes(WEIGHTS)
    return tmp_path


def ports(build: Path) -> dict[str, Any]:
    manifest = Manifest.load(build)
    return {**manifest.inputs, **manifest.outputs}


class Direct:
    """A transport that is the model; software has a copy of memory, as behind a cache."""

    def __init__(self, model: Model) -> None:
        self.model, self.places, self.closed = model, Places(BASE, SIZE), False
        self.read32, self.write32 = model.read32, model.write32

    def allocate(self, size: int) -> Memory:
        return Memory(self.places.take(size), np.full(size, 0xEE, np.uint8))

    def free(self, buffer: Memory) -> None:
        self.places.give(buffer.address, buffer.array.size)

    def _part(self, buffer: Memory) -> slice:
        return slice(buffer.address - BASE, buffer.address - BASE + buffer.array.size)

    def flush(self, buffer: Memory) -> None:
        self.model.memory[self._part(buffer)] = buffer.array.tobytes()

    def invalidate(self, buffer: Memory) -> None:
        buffer.array[:] = np.frombuffer(bytes(self.model.memory[self._part(buffer)]), np.uint8)

    def wait(self, seconds: float) -> None:
        time.sleep(1e-4)

    def clock_mhz(self) -> float | None:
        return None

    def close(self) -> None:
        self.closed = True


class Filed(Model):
    """The model behind files, which it looks at again and again."""

    def __init__(self, build: Path, folder: Path) -> None:
        self.registers = np.memmap(folder / "uio0", "<u4", "w+", shape=(1024,))
        self.bytes = np.memmap(folder / "udmabuf0", np.uint8, "w+", shape=(SIZE,))
        super().__init__(ports(build))
        self._show()
        self.over = False
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _show(self) -> None:
        for offset, value in self.words.items():
            self.registers[offset // 4] = value

    def _serve(self) -> None:
        reset = MANIFEST["registers"]["reset"]
        while not self.over:
            time.sleep(2e-5)
            if self.registers[reset // 4]:
                self.write32(reset, 1)
                self._show_results()
                self.registers[reset // 4] = 0
            if self.registers[CONTROL // 4] == START and self.words[CONTROL] != START:
                for each in MANIFEST["arguments"].values():
                    for k in range(each["bits"] // 32):
                        place = each["offset"] + 4 * k
                        self.words[place] = int(self.registers[place // 4])
                self.memory[:] = self.bytes.tobytes()
                self.run()
                self.bytes[:] = np.frombuffer(bytes(self.memory), np.uint8)
                self._show_results()

    def _show_results(self) -> None:
        for offset in MANIFEST["registers"].values():
            if offset != MANIFEST["registers"]["reset"]:
                self.registers[offset // 4] = self.words[offset]
        self.registers[CONTROL // 4] = self.words[CONTROL]

    def end(self) -> None:
        self.over = True
        self.thread.join()


def fake_xrt(library: Path, model: Model) -> Any:
    """Put a model behind the library; returns what must live as long as it is used."""
    places = Places(BASE, SIZE)

    def allocate(size: int) -> int:
        try:
            return places.take(size)
        except DriverError:
            return 0

    def to_device(address: int, data: int, size: int) -> None:
        model.memory[address - BASE : address - BASE + size] = ctypes.string_at(data, size)

    def from_device(address: int, data: int, size: int) -> None:
        ctypes.memmove(data, bytes(model.memory[address - BASE : address - BASE + size]), size)

    word, long, size, place = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p
    hooks = [
        ctypes.CFUNCTYPE(word, word)(model.read32),
        ctypes.CFUNCTYPE(None, word, word)(model.write32),
        ctypes.CFUNCTYPE(long, size)(allocate), ctypes.CFUNCTYPE(None, long, size)(places.give),
        ctypes.CFUNCTYPE(None, long, place, size)(to_device),
        ctypes.CFUNCTYPE(None, long, place, size)(from_device),
    ]
    table = (place * len(hooks))(*(ctypes.cast(each, place) for each in hooks))
    ctypes.CDLL(str(library)).fake_hooks(table)
    return hooks, table


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``xrt.cpp``, compiled with headers that stand for XRT's."""
    made = tmp_path_factory.mktemp("xrt") / "libhwgen_xrt.so"
    subprocess.run(["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
                    str(SOURCE), "-o", str(made), "-I", str(Path(__file__).parent / "fake_xrt")],
                   check=True)
    return made


def sysfs(folder: Path) -> Path:
    """What u-dma-buf says of its memory."""
    folder.mkdir()
    (folder / "size").write_text(f"{SIZE}\n")
    (folder / "phys_addr").write_text(f"{BASE:#x}\n")
    return folder


Made = Callable[[], tuple[Any, Any]]


@pytest.fixture(params=["direct", "uio", "pynq", "pynq interrupt", "xrt"])
def transport(
    request: pytest.FixtureRequest, build: Path, tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch, library: Path,
) -> Iterator[Made]:
    """Makes each transport, with a model behind it."""
    folder, ended, kept = tmp_path_factory.mktemp("device"), [], []

    def make() -> tuple[Any, Any]:
        if request.param == "uio":
            model = Filed(build, folder)
            ended.append(model.end)
            return Uio(folder / "uio0", folder / "udmabuf0", interrupt=False,
                       about=sysfs(folder / "sys")), model
        model = Model(ports(build))
        if request.param == "direct":
            return Direct(model), model
        (folder / "design.bit").write_bytes(b"")
        if request.param == "xrt":
            kept.append(fake_xrt(library, model))
            return Xrt(folder / "design.bit", library=library), model
        monkeypatch.setitem(sys.modules, "pynq", fake_pynq(
            model, interrupt="interrupt" in request.param))
        return Pynq(folder / "design.bit"), model

    yield make
    for each in ended:
        each()


def test_all_of_a_transport(build: Path, transport: Made) -> None:
    check_all(driver, build, transport)


def test_pynq_itself(build: Path) -> None:
    """The real pynq, over a device that is simulated, in an environment of its own."""
    python = os.environ.get("PYNQ_PYTHON")
    if not python:
        pytest.skip("PYNQ_PYTHON does not name a Python that has pynq, as `PYNQ_REMOTE=1 pip "
                    "install 'numpy<2' pynq` makes it")
    # There may be other packages called tests.
    code = (f"import runpy, sys, types; tests = types.ModuleType('tests'); "
            f"tests.__path__ = [{str(ROOT / 'tests')!r}]; sys.modules['tests'] = tests; "
            f"runpy.run_module('tests.driver.real_pynq', run_name='__main__')")
    ended = subprocess.run(
        [python, "-c", code, str(build)], cwd=build, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "driver")})
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "all is well\n"


@given(st.integers(0, 4), st.sampled_from([(1, 2), (2, 3), (3, 1), (6, 2), (6, 6), (1, 6)]),
       st.sampled_from([4, 8, 12, 16]), st.integers(0, 99))
def test_frames_lie_in_memory_as_the_build_packs_them(
    count: int, beat: tuple[int, int], bits: int, seed: int
) -> None:
    lanes, pixels = beat
    stream = StreamType(TensorType((4, 6, 6), Quantisation(1.0, 0, bits)), lanes, pixels)
    size = stream.beats * beat_bytes(stream)
    port = driver.Port("x", (4, 6, 6), bits, 1.0, 0, lanes, pixels, -(-bits // 8), size, size + 5)
    half = 1 << (bits - 1)
    codes = np.random.default_rng(seed).integers(-half, half, (count, 4, 6, 6))
    raw = port.pack(port.codes(codes))
    assert raw[:, :size].tobytes() == to_axi(stream, codes)
    assert not raw[:, size:].any()
    np.testing.assert_array_equal(port.unpack(raw), codes)
    np.testing.assert_array_equal(from_axi(stream, raw[:, :size].tobytes()), codes)
    assert not np.shares_memory(port.unpack(raw), raw)


@pytest.mark.parametrize("change, message", [
    ({"x": np.zeros((1, 2, 6, 2))},
     r"^x takes frames of shape \(N, 2, 2, 6\), channels last, not \(1, 2, 6, 2\)$"),
    ({"x": np.full((1, 2, 2, 6), np.nan)}, r"^x: frames hold NaN$"),
    ({"x": np.full((1, 2, 2, 6), 128)}, r"^x: codes must be between -128 and 127, not 128 to 128$"),
    ({"x": np.zeros((1, 2, 2, 6), bool)}, r"^x takes floats or integer codes, not bool$"),
    ({"x": np.zeros((2, 2, 2, 6))}, r"^All inputs must have as many frames$"),
    ({"z": np.zeros((1, 3))}, r"^Frames must be given for x, w, not for x, w, z$"),
])
def test_frames_that_are_wrong(
    build: Path, change: dict[str, np.ndarray], message: str
) -> None:
    with Accelerator(build, Direct(Model(ports(build)))) as accelerator:
        with pytest.raises(DriverError, match=message):
            accelerator.run(frames(1) | change)
        with pytest.raises(DriverError, match=r"^There are several inputs: give frames by name"):
            accelerator.run(np.zeros((1, 2, 2, 6)))
        with pytest.raises(DriverError, match=r"^A batch must be of 1 frame or more, not 0$"):
            accelerator.run(frames(1), batch=0)
        check(accelerator, 2)


def test_another_design_is_refused_and_let_go(build: Path) -> None:
    other = MANIFEST | {"identification": "0000000000000001"}
    (build / "accelerator.json").write_text(json.dumps(other))
    transport = Direct(Model(ports(build)))
    with pytest.raises(WrongBitstreamError, match=rf"^The device says it is {IDENTIFICATION:x}"):
        Accelerator(build, transport)
    assert transport.closed


@pytest.mark.parametrize("change, message", [
    ("", r"accelerator.json is no JSON: "),
    ('{"format": "other"}', r"is not of the format hwgen-accelerator-1 that this driver reads$"),
    (json.dumps(MANIFEST | {"inputs": {"x": {}}}), r"inputs are not as expected \("),
    (json.dumps(MANIFEST | {"weights": "none.bin"}),
     r"none.bin cannot be read \(No such file or directory\): it belongs to the build$"),
])
def test_files_that_are_wrong(build: Path, change: str, message: str) -> None:
    model = Model(ports(build))
    (build / "accelerator.json").write_text(change)
    with pytest.raises(DriverError, match=message):
        Accelerator(build, Direct(model)).run(np.zeros((1, 2, 2, 6)))


def test_no_build(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match=r"accelerator.json cannot be read \(No such file or "
                                          r"directory\): build with --shell"):
        Manifest.load(tmp_path)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5 * PAGE)), max_size=40))
def test_places(steps: list[tuple[bool, int]]) -> None:
    """Pieces do not overlap, and all comes together again."""
    places, taken = Places(BASE, 20 * PAGE), []
    for give, size in steps:
        if give and taken:
            places.give(*taken.pop(size % len(taken)))
            continue
        try:
            address = places.take(size)
        except DriverError:
            continue
        assert address % PAGE == 0
        end = address + max(size, 1)
        assert BASE <= address < end <= BASE + 20 * PAGE
        assert all(end <= a or a + max(s, 1) <= address for a, s in taken)
        taken.append((address, size))
    for each in taken:
        places.give(*each)
    assert places.take(20 * PAGE) == BASE


def test_interrupts_of_uio(tmp_path: Path, build: Path) -> None:
    """A count is read, and written to let the next one through; without one, time passes."""
    model = Filed(build, tmp_path)
    uio = Uio(tmp_path / "uio0", tmp_path / "udmabuf0", about=sysfs(tmp_path / "sys"))
    device = uio._device
    ours, theirs = os.openpty()
    uio._device = theirs
    began = time.monotonic()
    uio.wait(0.05)
    assert time.monotonic() - began >= 0.04
    os.write(ours, b"abc\n")
    began = time.monotonic()
    uio.wait(10)
    assert time.monotonic() - began < 5
    uio._device = device
    os.close(ours)
    os.close(theirs)
    uio.close()
    model.end()


def test_uio_that_is_not_there(tmp_path: Path) -> None:
    about = sysfs(tmp_path / "sys")
    with pytest.raises(DriverError, match=r"u-dma-buf and .* have no udmabuf9: load the"):
        Uio(memory="/dev/udmabuf9")
    with pytest.raises(DriverError, match=r"none cannot be opened: No such file or directory$"):
        Uio(tmp_path / "none", about=about)
    (tmp_path / "small").write_bytes(b"")
    with pytest.raises(DriverError, match=r"^4096 bytes of .*small cannot be mapped: "):
        Uio(tmp_path / "small", about=about)
    (about / "size").write_text("much")
    with pytest.raises(DriverError, match=r"size does not say a number: "):
        Uio(about=about)


def test_libraries_that_are_missing(tmp_path: Path) -> None:
    file = tmp_path / "design.xclbin"
    file.write_bytes(b"")
    with pytest.raises(DriverError, match=r"^This needs pynq, which cannot be imported "):
        Pynq("design.bit")
    for options in ({}, {"library": "libc.so.6"}):
        with pytest.raises(DriverError, match=r"^This needs XRT and .*: where XRT is set up, run "):
            Xrt(file, **options)
    with pytest.raises(DriverError, match=r"^There is no xclbin none$"):
        Xrt("none")


def test_what_pynq_refuses(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_pynq(Model(ports(build)))
    monkeypatch.setitem(sys.modules, "pynq", fake)
    with pytest.raises(DriverError, match=r"^Give one of bitstream, overlay and address$"):
        Pynq()
    with pytest.raises(DriverError, match=r"^There is no bitstream none$"):
        Pynq("none")
    overlay = fake.Overlay("")
    with pytest.raises(DriverError, match=r"^The overlay has no ip x: there are accelerator_0$"):
        Pynq(overlay=overlay, ip="x")
    overlay.ip_dict["dma"] = {"phys_addr": 0}
    with pytest.raises(DriverError, match=r"^Say which ip of the overlay is the accelerator: there "
                                          r"are accelerator_0, dma$"):
        Pynq(overlay=overlay)
    assert Pynq(overlay=overlay, ip="accelerator_0", clock=0).clock_mhz() == 99.5


def test_what_xrt_refuses(build: Path, library: Path) -> None:
    for name, options, message in (
            ("a.xclbin", {"device": 1},
             r"^XRT does not open top of .*a.xclbin on device 1: no device 1$"),
            ("wrong.xclbin", {}, r"on device 0: not an xclbin$"),
            ("a.xclbin", {"kernel": "other"}, r"on device 0: no such ip other$")):
        (build / name).write_bytes(b"")
        with pytest.raises(DriverError, match=message):
            Xrt(build / name, library=library, **options)


def test_frames_in_streams_are_another_driver_s(build: Path) -> None:
    (build / "accelerator.json").write_text(json.dumps(MANIFEST | {"frames": "streams"}))
    transport = Direct(Model({}))
    with pytest.raises(DriverError, match=r"takes frames from streams: this driver needs "):
        Accelerator(build, transport)
    assert transport.closed
    assert "ACCELERATOR_PORTS" not in header(MANIFEST | {"frames": "streams"}, 0)


def test_the_sequence_in_c(build: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The header of the build and the bare-metal example, compiled, above the model."""
    folder = tmp_path_factory.mktemp("c")
    (folder / "accelerator.h").write_text(header(MANIFEST, len(WEIGHTS)))
    (folder / "cache.c").write_text(
        '#include "run.h"\n'
        "void accelerator_flush(uint64_t address, uint64_t bytes) { (void)address; (void)bytes; }\n"
        "void accelerator_invalidate(uint64_t address, uint64_t bytes) "
        "{ (void)address; (void)bytes; }\n")
    source = ROOT / "driver" / "bare_metal"
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-I", str(source), "-I", str(folder)]
    subprocess.run(["cc", "-shared", "-fPIC", *flags, str(source / "run.c"),
                    str(folder / "cache.c"), "-o", str(folder / "run.so")], check=True)
    library, model = ctypes.CDLL(str(folder / "run.so")), Filed(build, folder)
    registers = ctypes.c_void_p(model.registers.ctypes.data)
    model.bytes[: len(WEIGHTS)] = np.frombuffer(WEIGHTS, np.uint8)
    begin = library.accelerator_begin
    begin.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64]
    model.registers[0x400 // 4] ^= 1
    assert begin(registers, BASE, 0) == -1
    model.registers[0x400 // 4] ^= 1
    assert begin(registers, BASE, 0) == 0
    given, errors = frames(3), ctypes.c_uint32()
    places = {name: 4096 * (k + 1) for k, name in enumerate(model.ports)}
    for name, codes in given.items():
        raw = model.ports[name].pack(codes).ravel()
        model.bytes[places[name] : places[name] + raw.size] = raw
    addresses = (ctypes.c_uint64 * 4)(*(BASE + place for place in places.values()))
    for fails in (False, True, False):
        model.fail = 2 if fails else 0
        wanted = (-2, 2) if fails else (0, 0)
        assert library.accelerator_run(
            registers, 3, addresses, ctypes.byref(errors)) == wanted[0]
        assert errors.value == wanted[1]
    for name, wanted in evaluate(**given).items():
        port = model.ports[name]
        raw = np.array(model.bytes[places[name] : places[name] + 3 * port.stride])
        np.testing.assert_array_equal(port.unpack(raw), wanted)
    model.end()


def test_the_driver_needs_numpy_alone(build: Path) -> None:
    """As a package of its own, where there is no hwgen."""
    code = ("import sys, hwgen_driver; print(sorted({name.split('.')[0] for name in sys.modules} "
            "& {'hwgen', 'amaranth', 'pynq', 'scipy', 'onnx'}))")
    ended = subprocess.run([sys.executable, "-c", code], cwd=build, capture_output=True, text=True,
                           env={"PYTHONPATH": str(ROOT / "driver")}, check=True)
    assert ended.stdout == "[]\n"
