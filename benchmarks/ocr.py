"""A trained reader of text lines, quantised as it comes in its package: convolutions and attention.

    python -m benchmarks.ocr [--quick] [--lines N] [--precision wXaY] [--verilog N]

The PP-OCRv4 recogniser (``pip install --no-deps rapidocr-onnxruntime==1.4.4``) reads lines of words
that are drawn with Pillow's own font.  Calibration sees other lines than those that are counted;
channels are equalised and biases corrected on them.  Printed is how many lines float reads
exactly, and how many of these the integer graph reads exactly; ``--verilog`` runs some lines
through the Verilog of a board.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFont

from hwgen.errors import HwgenError
from hwgen.models.export import from_onnx_layout, to_integer
from hwgen.models.host.model import input_name
from hwgen.models.load import Source, read
from hwgen.models.onnx.session import session

PACKAGE = "rapidocr_onnxruntime"
MODEL = "models/ch_PP-OCRv4_rec_infer.onnx"
HEIGHT, WIDTH = 48, 320
CALIBRATION = 48
"""Lines that calibration sees."""
BOARD = "u250"


def model_file() -> Path:
    """The recogniser in its package."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise HwgenError("The recogniser is not installed: pip install --no-deps "
                         "rapidocr-onnxruntime==1.4.4")
    return Path(found.submodule_search_locations[0]) / MODEL


def lines(count: int, seed: int) -> list[str]:
    """Lines of words and numbers: names of Python's standard library."""
    random = np.random.default_rng(seed)
    words = sorted(name for name in sys.stdlib_module_names if name.isalpha())
    found = []
    for _ in range(count):
        parts = [str(w) for w in random.choice(words, random.integers(1, 3))]
        if random.random() < 0.3:
            parts.append(str(random.integers(1, 10_000)))
        found.append(" ".join(parts)[:22])
    return [line.strip() for line in found]


def drawn(texts: Sequence[str], seed: int) -> np.ndarray:
    """Lines as the recogniser takes them, float ``(N, 3, 48, 320)`` in -1..1.

    What is right of a line is 0.  Sizes of letters, margins and tones differ from line to line.
    """
    random = np.random.default_rng(seed)
    frames = np.zeros((len(texts), 3, HEIGHT, WIDTH), np.float32)
    for frame, text in zip(frames, texts, strict=True):
        font = ImageFont.load_default(int(random.integers(24, 40)))
        left, top, right, bottom = (int(n) for n in font.getbbox(text))
        margin = int(random.integers(3, 9))
        size = right - left + 2 * margin, bottom - top + 2 * margin
        dark, bright = int(random.integers(0, 90)), int(random.integers(170, 256))
        image = Image.new("L", size, bright)
        ImageDraw.Draw(image).text((margin - left, margin - top), text, dark, font)
        width = min(WIDTH, max(1, round(size[0] * HEIGHT / size[1])))
        scaled = np.asarray(image.resize((width, HEIGHT), Image.Resampling.BILINEAR))
        frame[:, :, :width] = scaled / np.float32(127.5) - 1
    return frames


def read_out(scores: np.ndarray, characters: Sequence[str]) -> list[str]:
    """Text of scores ``(N, steps, classes)``: repeats are one, and class 0 is nothing.

    (Graves et al., "Connectionist Temporal Classification", 2006.)
    """
    best = scores.argmax(-1)
    fresh = np.diff(best, axis=1, prepend=-1) != 0
    return ["".join(characters[k] for k in row[new & (row > 0)])
            for row, new in zip(best, fresh, strict=True)]


def integer_scores(source: Source, frames: np.ndarray) -> np.ndarray:
    """Scores by the integer graph, in integer ONNX, and its host's part."""
    assert source.host is not None
    runner, host = session(to_integer(source.graph)), session(source.host)
    (name,), (given,) = source.graph.inputs, source.network.inputs
    codes = [source.quantised([{given: frame[None]}])[name] for frame in frames]
    found = []
    for code in codes:
        made = runner.run(source.graph.outputs, {name: np.moveaxis(code, -1, 1)})
        feed = {input_name(n): from_onnx_layout(value)
                for n, value in zip(source.graph.outputs, made, strict=True)}
        found.append(np.asarray(host.run(None, feed)[0]))
    return np.concatenate(found)


def main() -> int:
    parser = argparse.ArgumentParser(description="A trained reader of text lines")
    parser.add_argument("--quick", action="store_true", help="40 lines")
    parser.add_argument("--lines", type=int, default=400)
    parser.add_argument("--precision", default="w8a8")
    parser.add_argument("--verilog", type=int, default=0, metavar="N", help="lines in Verilator")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = onnx.load(str(model_file()))
    characters = ["", *next(p.value for p in model.metadata_props
                            if p.key == "character").split("\n"), " "]
    texts = lines(40 if options.quick else options.lines, 1)
    frames = drawn(texts, 1)
    with tempfile.TemporaryDirectory() as folder:
        calibration = Path(folder) / "lines.npy"
        np.save(calibration, drawn(lines(CALIBRATION, 2), 2))
        begin = time.perf_counter()
        source = read(str(model_file()), size=(HEIGHT, WIDTH), calibration=calibration,
                      precision=options.precision, equalise=True, correct_bias=True)
        seconds = time.perf_counter() - begin
        whole = session(source.whole)
        (given,) = source.network.inputs
        floats = np.concatenate([whole.run(None, {given: f[None]})[0] for f in frames])
        real = read_out(floats, characters)
        ours = read_out(integer_scores(source, frames), characters)
        exact = [k for k, text in enumerate(texts) if real[k] == text]
        kept = sum(ours[k] == real[k] for k in exact)
        print(f"{source.graph.macs:,} MACs, read in {seconds:.1f} s; of {len(texts)} lines float "
              f"reads {len(exact)} exactly; {options.precision} reads {kept} of these exactly "
              f"({100 * kept / max(len(exact), 1):.1f} %), and "
              f"{sum(a == b for a, b in zip(ours, texts, strict=True))} of all")
        if options.verilog:
            return _verilog(options, calibration)
    return 0


def _verilog(options: argparse.Namespace, calibration: Path) -> int:
    """Lines through the Verilog: whether all is as the reference says."""
    from hwgen.flow import build
    from hwgen.options import Options

    built = build(Options(
        model=str(model_file()), board=BOARD, size=(HEIGHT, WIDTH), calibration=calibration,
        precision=options.precision, equalise=True, correct_bias=True, simulate=options.verilog))
    proof, predicted = built.simulated, built.found.timing.interval
    assert proof is not None
    print(f"{BOARD}: {proof.mismatches} mismatches in {options.verilog} lines, "
          f"{proof.interval:,} cycles a line, predicted {predicted:,}")
    return int(bool(proof.mismatches or proof.interval != predicted))


if __name__ == "__main__":
    sys.exit(main())
