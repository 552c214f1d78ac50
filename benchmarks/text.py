"""A trained network on text: what integers do to the kinds of files that it tells apart.

    python -m benchmarks.text [--quick] [--model FILE] [--files N] [--simulate N] [--find]

The network is that of the package ``magika`` (``pip install --no-deps magika``): 2,048 bytes of a
file, the first and the last 1,024, are ids of an embedding; layer normalisation, a convolution of
five taps, GELU, the largest of all places, and one of 214 kinds come of them.  The files are those
of this machine, in Python's packages and in ``/usr``, a like number of each kind; their names end
in what they are.  Ranges come from other files than those that are counted.

Printed is how many files get the kind that their name says: by the float network in onnxruntime,
and by its integer graph, which onnxruntime computes as well, bit for bit.  ``--simulate`` runs
frames through the Verilog; ``--find`` lets one tensor at a time have 16 bits, to see which of them
costs accuracy.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hwgen.ir import Graph
from hwgen.models.export import to_integer
from hwgen.models.load import Source, read
from hwgen.models.onnx.session import session

KINDS: dict[str, tuple[str, ...]] = {
    "py": ("python",), "h": ("c", "cpp"), "html": ("html",), "css": ("css",),
    "js": ("javascript",), "json": ("json",), "png": ("png",), "rst": ("rst",),
    "yaml": ("yaml",), "xml": ("xml",), "so": ("elf",), "pyc": ("pythonbytecode",),
    "svg": ("svg",), "md": ("markdown",), "toml": ("toml",), "gz": ("gzip",), "sql": ("sql",),
    "pl": ("perl",), "po": ("po",), "gif": ("gif",), "cmake": ("cmake",), "php": ("php",),
    "c": ("c",), "woff2": ("woff2",), "pem": ("pem",),
}
"""Endings of names, and what the network may call such files."""
LEAST = 256
"""Bytes of the smallest files."""
BATCH = 8


def package() -> Path | None:
    """The network of the package, if it is installed."""
    found = importlib.util.find_spec("magika")
    if found is None or found.origin is None:
        return None
    return next(iter(sorted(Path(found.origin).parent.glob("models/*/model.onnx"))), None)


def roots() -> list[Path]:
    """Where files are looked for."""
    return [Path(sysconfig.get_path("purelib")), Path("/usr")]


def files(count: int, seed: int = 0) -> list[tuple[Path, str]]:
    """Files and the endings of their names, as many of each kind as there are, up to ``count``."""
    by_kind: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for root in roots():
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                kind = name.rpartition(".")[2]
                if kind in by_kind:
                    by_kind[kind].append(Path(folder) / name)
    random, found, seen = np.random.default_rng(seed), [], set()
    for kind, paths in by_kind.items():
        taken = 0
        for k in random.permutation(len(paths)):
            if taken == count:
                break
            path = paths[int(k)]
            try:
                if path.is_symlink() or path.stat().st_size < LEAST:
                    continue
                digest = hashlib.sha256(path.read_bytes()[:4096]).digest()
            except OSError:
                continue
            if digest not in seen:
                seen.add(digest)
                found.append((path, kind))
                taken += 1
    return found


def ids_of(path: Path, config: dict) -> np.ndarray:
    """The ids of a file, ``(beginning + end,)``; what a short file lacks is the padding's id."""
    block, begin, end = (config[key] for key in ("block_size", "beg_size", "end_size"))
    size = path.stat().st_size
    with open(path, "rb") as file:
        first = file.read(block)
        file.seek(max(size - block, 0))
        last = file.read(block)
    first = first.strip() if size <= block else first.lstrip()
    last = last.strip() if size <= block else last.rstrip()
    ids = np.full(begin + end, config["padding_token"])
    head, tail = first[:begin], last[-end:]
    ids[: len(head)] = list(head)
    ids[begin + end - len(tail) :] = list(tail)
    return ids


def kinds(model, scores: str, frames: np.ndarray, labels: list[str]) -> list[str]:
    """What a network calls some files.

    Parameters
    ----------
    model : a session with one input
    scores : its output
    frames : one for each file
    labels : of the scores, in order
    """
    found: list[str] = []
    name = model.get_inputs()[0].name
    for k in range(0, len(frames), BATCH):
        (made,) = model.run([scores], {name: frames[k : k + BATCH]})
        found += [labels[i] for i in np.asarray(made).reshape(-1, len(labels)).argmax(1)]
    return found


def share(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Percentage of files that get the kind of their name."""
    return 100 * float(np.mean([a in KINDS[b] for a, b in zip(found, wanted, strict=True)]))


def integer(graph: Graph, ids: np.ndarray, labels: list[str]) -> list[str]:
    """What the integer graph calls some files."""
    (type,) = graph.inputs.values()
    codes = (ids + type.quantisation.low).astype(type.quantisation.dtype)
    return kinds(session(to_integer(graph)), graph.outputs[0],
                 codes.reshape(-1, 1, *type.shape[:-1]), labels)


def finer(
    path: Path, arrays: Path, source: Source, frames: np.ndarray, wanted: Sequence[str],
    labels: list[str],
) -> Iterator[tuple[float, str]]:
    """Accuracy with 16 bits for one tensor of 8 bits at a time."""
    for node in source.graph.nodes:
        floats = source.graph.meta["floats"].get(node.name)
        if floats is None or source.graph.types[node.name].bits > 8:
            continue
        rules = {"default": "w8a8", floats: "w8a16"}
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(rules, file)
            file.flush()
            graph = read(str(path), calibration=arrays, precision=file.name).graph
        yield share(integer(graph, frames, labels), wanted), floats


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Accuracy of integers on the kinds of files")
    parser.add_argument("--quick", action="store_true", help="few files")
    parser.add_argument("--model", type=Path, help="model.onnx of magika; default: the package's")
    parser.add_argument("--files", type=int, default=60, help="files of each kind")
    parser.add_argument("--precision", default="w8a8")
    parser.add_argument("--calibrate", default="minmax")
    parser.add_argument("--find", action="store_true", help="which tensor costs accuracy")
    parser.add_argument("--simulate", type=int, default=0, metavar="N", help="frames in Verilator")
    options = parser.parse_args(argv)
    path = options.model or package()
    if path is None:
        print("magika is not installed: pip install --no-deps magika, or give --model",
              file=sys.stderr)
        return 2
    config = json.loads(path.with_name("config.min.json").read_text())
    labels = config["target_labels_space"]
    count = 6 if options.quick else options.files
    found = files(count + max(count // 20, 1))
    # The last ones of each kind are for ranges alone.
    shown, counted, seen = [], [], dict.fromkeys(KINDS, 0)
    for file, kind in found:
        seen[kind] += 1
        (counted if seen[kind] <= count else shown).append((file, kind))
    shown = [*shown, *(pair for k, pair in enumerate(counted) if k % 20 == 0)][:64] if (
        len(shown) < 8) else shown[:64]
    wanted = [kind for file, kind in counted if (file, kind) not in shown]
    frames = np.array([ids_of(file, config) for file, kind in counted if (file, kind) not in shown])
    begin = time.perf_counter()
    whole = kinds(session(_loaded(path)), "target_label", frames.astype(np.int32), labels)
    print(f"{len(frames)} files of {len(set(wanted))} kinds, ranges from {len(shown)} others")
    print(f"float: {share(whole, wanted):.2f} % ({time.perf_counter() - begin:.0f} s)")
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder) / "ids.npz"
        np.savez(arrays, bytes=np.array([ids_of(file, config) for file, _ in shown]))
        source = read(str(path), calibration=arrays, precision=options.precision,
                      calibrate=options.calibrate)
        begin = time.perf_counter()
        codes = integer(source.graph, frames, labels)
        same = np.mean([a == b for a, b in zip(codes, whole, strict=True)])
        print(f"{options.precision}: {share(codes, wanted):.2f} %, {same:.2%} as float "
              f"({time.perf_counter() - begin:.0f} s)")
        if options.find:
            for value, name in finer(path, arrays, source, frames, wanted, labels):
                print(f"  {value:.2f} % with 16 bits for {name}", flush=True)
    if options.simulate:
        return _simulated(source, frames[: options.simulate])
    return 0


def _loaded(path: Path):
    import onnx

    return onnx.load(path)


def _simulated(source: Source, ids: np.ndarray) -> int:
    """Run frames through the Verilog of a design for a large board."""
    import hwgen.boards as boards
    from hwgen.dse.design.search import search
    from hwgen.emit.verilog import emit
    from hwgen.sim.verilator import VerilatorModel

    found = search(source.graph, boards.load("zcu102"))
    (name, type), = source.graph.inputs.items()
    codes = (ids + type.quantisation.low).reshape(-1, *type.shape)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        model = VerilatorModel(emit(found.netlist), found.netlist, Path(folder))
        run = model.run({name: codes})
    wrong = sum(int((run.outputs[key] != value).sum())
                for key, value in source.graph.evaluate({name: codes}).items())
    print(f"{len(ids)} frames in Verilog: {wrong} mismatches, an interval of "
          f"{found.timing.interval} cycles ({time.perf_counter() - begin:.0f} s)")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
