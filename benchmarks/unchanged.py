"""Whether a change of the code changes what it builds: five networks, file by file.

    python -m benchmarks.unchanged FILE [--quick]

Builds five networks that between them use most of what there is, and compares the digests of
designs, reports, Verilog and images with those in FILE; if there is no such file, it is written.
Reports are compared without times and provenance, Verilog without comments.  ``--quick`` takes one
network.  The exit status is 1 if anything differs; the files that do are named.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from examples import digits
from hwgen.build import main as build
from hwgen.output import MANIFEST

CASES = {
    "yolov5n": ["yolov5n", "--size", "128", "--board", "zcu102"],
    "mobilenetv3-small": ["mobilenetv3-small", "--size", "64", "--board", "zcu104"],
    "x3d-m": ["x3d-m", "--size", "32", "--board", "zcu102"],
    "resnet18": ["resnet18", "--size", "64", "--board", "zcu102", "--offchip", "prefer"],
    "digits": ["digits.onnx", "--calibration", "digits.npy", "--board", "zedboard", "--sparse"],
}
PASSING = ("seconds", "provenance", "model")
"""Entries of a report that say when and how it was made."""


def content(path: Path) -> bytes:
    """What of a file is compared."""
    if path.name == "report.json":
        report = json.loads(path.read_text())
        return json.dumps({k: v for k, v in report.items() if k not in PASSING}).encode()
    if path.suffix == ".v":
        return re.sub(r"//.*", "", path.read_text()).encode()
    return path.read_bytes()


def digests(folder: Path) -> dict[str, str]:
    """Per file of a build, what it holds; without the page, which is drawn from the report."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(content(path)).hexdigest()[:16]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, "report.html")
    }


def built(names: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Build networks; yields each with its digests."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name in names:
            if name == "digits":
                training, test = digits.digits()
                network = digits.train(training, epochs=3)
                digits.export(network, test.pixels.shape[-1], Path("digits.onnx"))
                digits.quantise(Path("digits.onnx"), training)
                Path("calibration.npy").rename("digits.npy")
            with contextlib.redirect_stdout(io.StringIO()) as said:
                status = build([*CASES[name], "--out", name])
            if status:
                raise SystemExit(f"{name} was not built:\n{said.getvalue()}")
            yield name, digests(Path(name))


def main() -> int:
    parser = argparse.ArgumentParser(description="Whether builds are as they were")
    parser.add_argument("file", type=Path)
    parser.add_argument("--quick", action="store_true", help="one network")
    options = parser.parse_args()
    known = json.loads(options.file.read_text()) if options.file.exists() else {}
    differing = 0
    for name, found in built(["mobilenetv3-small"] if options.quick else list(CASES)):
        before = known.setdefault(name, found)
        others = sorted(f for f in {*before, *found} if before.get(f) != found.get(f))
        differing += len(others)
        more = f" and {len(others) - 8} more" if others[8:] else ""
        print(f"{name}: {len(found)} files, {len(others)} differ {', '.join(others[:8])}{more}",
              flush=True)
    if not options.file.exists():
        options.file.write_text(json.dumps(known, indent=1) + "\n")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
