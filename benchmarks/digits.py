"""Handwritten digits: what fewer bits cost, and all test images through the Verilog.

    python -m benchmarks.digits [--quick] [--cluttered] [--options]

Trains the network of ``examples/digits.py``, quantises it to several precisions, and runs the
whole test set through the Verilog of each; ``--quick``: of int8 only.  Digits of 8x8 pixels are
nearly all read right at any precision.  With ``--cluttered`` they lie, scaled, on noisy canvases of
32x32 pixels amid scraps of others, which shows differences that plain digits hide.  ``--options``
compares ways to quantise instead, over several trainings and without the Verilog.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from examples.digits import Images, Network, classify, digits, export, quantise, simulate, train
from hwgen import boards
from hwgen.ir import Graph
from hwgen.models.quantisation.calibrate import METHODS

PRECISIONS = ("w8a8", "w6a6", "w4a8", "w4a4", "mixed", "w3a3")
MIXED = """\
# First and last layer keep 8 bits of weights: they have few, and touch the image and the scores.
default = "w4a4"
[layers]
"/first/*" = {weights = 8}
"/head/*" = {weights = 8}
"scores" = {activations = 8}
"""
SIZE = 32
"""Height and width of a canvas."""
SCRAP = 6
"""Height and width of a piece of clutter."""
TRAININGS = 3
"""Networks that ways to quantise are compared over."""


def cluttered(images: Images, copies: int, seed: int) -> Images:
    """Every digit ``copies`` times, on canvases of its own.

    A digit is scaled to 14 to 24 pixels and placed at random; four scraps of digits of the same
    set lie about, and everything has noise.
    """
    random = np.random.default_rng(seed)
    labels = np.tile(images.labels, copies)
    canvases = np.zeros((len(labels), 1, SIZE, SIZE), np.float32)

    def scaled(k: int, size: int) -> np.ndarray:
        picture = Image.fromarray(images.pixels[k, 0])
        return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))

    def place(canvas: np.ndarray, picture: np.ndarray) -> None:
        top, left = random.integers(0, SIZE - len(picture) + 1, 2)
        under = canvas[top : top + len(picture), left : left + len(picture)]
        np.maximum(under, picture, out=under)

    for k, canvas in enumerate(canvases[:, 0]):
        for _ in range(4):
            top, left = random.integers(0, 16 - SCRAP + 1, 2)
            other = scaled(int(random.integers(len(images))), 16)
            scrap = other[top : top + SCRAP, left : left + SCRAP]
            place(canvas, scrap * random.uniform(0.5, 1))
        digit = scaled(k % len(images), int(random.integers(14, 25)))
        place(canvas, digit * random.uniform(0.6, 1))
        canvas += random.normal(0, 0.13, canvas.shape)
        # As a camera gives it.
        canvas[...] = np.clip(np.rint(canvas * 255), 0, 255) / 255
    return Images(canvases, labels)


def prepared(network: Network, size: int, folder: Path) -> Path:
    """The network as an ONNX file, with the precision file beside it."""
    onnx = folder / "digits.onnx"
    export(network, size, onnx)
    (folder / "mixed.toml").write_text(MIXED)
    return onnx


def integer(onnx: Path, training: Images, precision: str, **options) -> Graph:
    """The integer graph at one of the precisions above."""
    given = str(onnx.with_name("mixed.toml")) if precision == "mixed" else precision
    return quantise(onnx, training, given, **options)


def compare_options(training: Images, test: Images, epochs: int, folder: Path) -> None:
    """Print the accuracy that each way to quantise loses, as a mean over several trainings."""
    ways = list(itertools.product(METHODS, (False, True), (False, True)))
    names = PRECISIONS[2:]
    lost = {(way, name): 0.0 for way in ways for name in names}
    for seed in range(TRAININGS):
        network = train(training, epochs, seed=seed)
        right = test.accuracy(network.classify(test.pixels))
        print(f"training {seed}: float {right:.2f} %", flush=True)
        onnx = prepared(network, test.pixels.shape[-1], folder)
        for way, name in lost:
            calibrate, equalise, correct_bias = way
            graph = integer(onnx, training, name, calibrate=calibrate, equalise=equalise,
                            correct_bias=correct_bias)
            lost[way, name] += (right - test.accuracy(classify(graph, test))) / TRAININGS
    print("points lost              " + "".join(f"{name:>8}" for name in names))
    for way in ways:
        calibrate, equalise, correct_bias = way
        text = f"{calibrate:<11}{'equalised' if equalise else '':<10}"
        text += "corrected" if correct_bias else ""
        print(f"{text:<31}" + "".join(f"{lost[way, name]:>8.2f}" for name in names))


def main() -> int:
    parser = argparse.ArgumentParser(description="Handwritten digits at several precisions")
    parser.add_argument("--quick", action="store_true", help="int8 only")
    parser.add_argument("--cluttered", action="store_true", help="32x32 pixels, with clutter")
    parser.add_argument("--options", action="store_true", help="compare ways to quantise")
    parser.add_argument("--board", default="zcu104")
    options = parser.parse_args()
    board = boards.load(options.board)
    training, test = digits()
    epochs, fps = 15, 100_000.0
    if options.cluttered:
        # Digits of the test set are in no canvas to train on, not even as clutter.
        training, test = cluttered(training, 6, seed=0), cluttered(test, 2, seed=1)
        epochs, fps = 6, 10_000.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.options:
            compare_options(training, test, epochs, folder)
            return 0
        begin = time.perf_counter()
        network = train(training, epochs)
        right = test.accuracy(network.classify(test.pixels))
        print(f"{len(training)} images to train on, {len(test)} to test with; trained in "
              f"{time.perf_counter() - begin:.0f} s; float {right:.2f} %", flush=True)
        onnx = prepared(network, test.pixels.shape[-1], folder)
        print("           right, %          wrong in Verilog  cycles an image\n"
              "bits    reference  Verilog     digits   scores  predicted  simulated   DSP     s")
        failed = False
        for precision in PRECISIONS[:1] if options.quick else PRECISIONS:
            graph = integer(onnx, training, precision)
            found = simulate(graph, test, board, fps, folder / precision)
            print(f"{precision:<7} {test.accuracy(classify(graph, test)):9.2f}"
                  f" {test.accuracy(found.digits):8.2f} {found.wrong_digits:10}"
                  f" {found.wrong_scores:8} {found.interval:10,} {found.simulated_interval:10,}"
                  f" {found.dsp:5} {found.seconds:5.0f}", flush=True)
            failed |= not found.exact
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
