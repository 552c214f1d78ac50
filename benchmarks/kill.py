"""Builds that are killed: SIGINT, SIGTERM and SIGKILL at random moments.

    python -m benchmarks.kill [--quick] [--moments N] [--seed S]

A small network is built and simulated over an earlier build of it, and killed.  Afterwards the
output must be the old build or the new one, whole; after SIGINT and SIGTERM nothing else may be
left and nothing run on, and after SIGKILL nothing once the next build has ended.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwgen.output import MANIFEST

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


def network(path: Path) -> None:
    """A small file."""
    weights = np.random.default_rng(0).normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 10, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 8])],
        [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)


class Place:
    """A folder with a network, an output, and temporary files of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        network(folder / "net.onnx")

    def start(self, seed: int) -> subprocess.Popen:
        """Begin a build; the seed makes its files others than those of another."""
        return subprocess.Popen(
            [sys.executable, "-m", "hwgen.build", str(self.folder / "net.onnx"), "--board",
             "zedboard", "--out", str(self.out), "--simulate", "2", "--seed", str(seed)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": str(self.temporary)},
        )

    def build(self, seed: int) -> float:
        """Build to the end; returns the seconds it took."""
        begin = time.perf_counter()
        process = self.start(seed)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        return time.perf_counter() - begin

    def whole(self) -> bool:
        """Whether the output is what its manifest says, no more and no less."""
        files = json.loads((self.out / MANIFEST).read_text())["files"]
        there = {str(p.relative_to(self.out)) for p in self.out.rglob("*") if p.is_file()}
        return there == {*files, MANIFEST} and all(
            hashlib.sha256((self.out / name).read_bytes()).hexdigest() == hash
            for name, hash in files.items())

    def left(self) -> list[str]:
        """What is there beside the network and the output."""
        return sorted(str(p.relative_to(self.folder)) for p in (
            *self.temporary.iterdir(),
            *(p for p in self.folder.iterdir() if p.name not in ("out", "tmp", "net.onnx"))))

    def running(self) -> list[str]:
        """Processes that work in the folder."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self.folder in (process / "cwd").readlink().parents:
                    found.append((process / "cmdline").read_text().replace("\0", " ")[:80])
            except OSError:
                continue
        return found


def kill(place: Place, number: signal.Signals, moment: float, seed: int) -> str:
    """Kill a build; what is wrong then, or nothing."""
    process = place.start(seed)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    begin = time.perf_counter()
    try:
        _, errors = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        return "goes on"
    wanted = -number if number == signal.SIGKILL else 128 + number
    if process.returncode not in (wanted, 0, -number):
        return f"ends with {process.returncode}: {errors.strip()[-200:]}"
    if number != signal.SIGKILL and process.returncode == wanted and len(
            errors.strip().splitlines()) != 1:
        return f"says {errors.strip()[-300:]!r}"
    if not place.whole():
        return "leaves an output that is neither the old one nor the new one"
    if number != signal.SIGKILL and process.returncode == wanted:
        # The kernel takes a moment to bury what was killed.
        while (running := place.running()) and time.perf_counter() - begin < 3:
            time.sleep(0.05)
        if running or place.left():
            return f"leaves {running + place.left()}"
    return ""


def trial(moments: int, seed: int = 0, show=print) -> int:
    """Kill builds at random moments; returns how often something was wrong."""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        place.build(0)
        whole = place.build(1)
        chance = random.Random(seed)
        for k in range(moments):
            for number in SIGNALS:
                moment = chance.uniform(0.05, 1.02) * whole
                found = kill(place, number, moment, 2 + k % 2)
                if not found and number == signal.SIGKILL:
                    place.build(4)
                    if (left := place.left() + place.running()) or not place.whole():
                        found = f"and the next build leave {left}"
                wrong += bool(found)
                show(f"{number.name} after {moment:.2f} of {whole:.2f} s: {found or 'right'}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Builds that are killed")
    parser.add_argument("--quick", action="store_true", help="3 moments")
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong = trial(3 if options.quick else options.moments, options.seed)
    print(f"{wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
