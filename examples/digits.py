"""A network of your own, from training to proven Verilog: handwritten digits.

    python -m examples.digits [--precision w8a8] [--board zcu104] [--target-fps F] [--out DIR]

Trains a small convolutional network in PyTorch on scikit-learn's digits (real ones, 8x8 pixels),
exports it as ONNX, makes it integer, searches a design, and runs every test image through the
emitted Verilog.  The accelerator gives ten scores and, as the network ends in an argmax, the digit
itself.  ``--precision`` takes ``w4a4`` and the like, or a file with the bits of each layer::

    default = "w4a4"
    [layers]
    "/first/*" = {weights = 8}
    "scores" = {activations = 8}
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

from hwgen import boards, models
from hwgen.boards import Board
from hwgen.dse.design.search import search
from hwgen.emit.verilog import emit
from hwgen.ir import Graph
from hwgen.models.training.repeatable import repeatable
from hwgen.sim.verilator import VerilatorModel


@dataclass(frozen=True)
class Images:
    """Grey images and what they show.

    Members
    -------
    pixels : float32, shape ``(N, 1, height, width)``, black 0 to white 1
    labels : the digits, shape ``(N,)``
    """

    pixels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def accuracy(self, digits: np.ndarray) -> float:
        """Share of the images, in per cent, that a network took for the right digit."""
        return 100 * float((digits == self.labels).mean())


def digits(seed: int = 0) -> tuple[Images, Images]:
    """1,257 images to train on and 540 others to test with; each digit has its share of both."""
    data = load_digits()
    pixels = (data.images / 16).astype(np.float32)[:, None]
    parts = train_test_split(
        pixels, data.target, test_size=0.3, stratify=data.target, random_state=seed
    )
    return Images(parts[0], parts[2]), Images(parts[1], parts[3])


# The float network

class Layer(nn.Module):
    """A 3x3 convolution, normalised, with a ReLU; in hardware they are one block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x)))


class Network(nn.Module):
    """Three layers with pooling between them, the largest value of each channel, a dense layer.

    Takes images of any size; gives ten scores and the digit whose score is largest.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = Layer(1, 16), Layer(16, 32), Layer(32, 64)
        self.pool = nn.MaxPool2d(2)
        self.largest = nn.AdaptiveMaxPool2d(1)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.pool(self.first(x))
        x = self.pool(self.second(x))
        scores = self.head(self.largest(self.third(x)).flatten(1))
        return scores, scores.argmax(1, keepdim=True)

    def classify(self, pixels: np.ndarray) -> np.ndarray:
        """The digits that the float network sees."""
        with torch.no_grad():
            return self(torch.from_numpy(pixels))[1].numpy().ravel()


def train(images: Images, epochs: int = 15, batch: int = 32, seed: int = 0) -> Network:
    """A trained network; on the 8x8 digits this takes seconds."""
    pixels, labels = torch.from_numpy(images.pixels), torch.from_numpy(images.labels)
    with repeatable(seed):
        network = Network().train()
        optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, max_lr=0.01, total_steps=epochs * (len(images) // batch)
        )
        for _ in range(epochs):
            order = torch.randperm(len(images))
            for k in range(len(images) // batch):
                chosen = order[k * batch : (k + 1) * batch]
                scores, _ = network(pixels[chosen])
                optimiser.zero_grad()
                # Smoothed labels keep the scores, and so the range to be quantised, small.
                F.cross_entropy(scores, labels[chosen], label_smoothing=0.1).backward()
                optimiser.step()
                schedule.step()
    return network.eval()


def export(network: Network, size: int, path: Path) -> None:
    """Write the network as ONNX, for images of ``size`` x ``size`` pixels."""
    with torch.no_grad(), warnings.catch_warnings():
        # This exporter is deprecated, but names nodes after the modules: "/first/conv/Conv".
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.zeros(1, 1, size, size),), path, dynamo=False, opset_version=17,
            input_names=["image"], output_names=["scores", "digit"],
        )


# The integer network

def quantise(
    onnx: Path, calibration: Images, precision: str = "w8a8", *, calibrate: str = "mse",
    equalise: bool = True, correct_bias: bool = True,
) -> Graph:
    """The integer graph of an ONNX file, its ranges taken from the first 64 training images.

    The options are those of :func:`hwgen.models.load`.  At 8 bits they hardly matter; at 4 bits,
    these win back half of what rounding loses or more; see ``python -m benchmarks.digits
    --cluttered --options``.
    """
    # Frames are saved as the network takes them, float and scaled.
    frames = onnx.with_name("calibration.npy")
    np.save(frames, calibration.pixels[:64])
    return models.load(
        str(onnx), calibration=frames, precision=precision, calibrate=calibrate,
        equalise=equalise, correct_bias=correct_bias,
    )


def to_codes(graph: Graph, images: Images) -> dict[str, np.ndarray]:
    """The images as the accelerator takes them: integers, channels last."""
    ((name, tensor),) = graph.inputs.items()
    return {name: tensor.quantisation.quantise(images.pixels.transpose(0, 2, 3, 1))}


def classify(graph: Graph, images: Images) -> np.ndarray:
    """The digits that the integer network sees, in numpy: what the hardware must give."""
    return graph.evaluate(to_codes(graph, images))["digit"].ravel()


# The hardware

@dataclass(frozen=True)
class Outcome:
    """A design, and what its Verilog did with the test images.

    Members
    -------
    dsp : multipliers of the device that the design takes
    interval, latency : cycles from image to image, and of an image to its last output; as predicted
    simulated_interval, simulated_latency : the same in the Verilog
    digits : what the Verilog saw
    wrong_digits, wrong_scores : how many are not as in the reference
    seconds : time that compiling and running the simulation took
    """

    dsp: int
    interval: int
    latency: int
    simulated_interval: int
    simulated_latency: int
    digits: np.ndarray
    wrong_digits: int
    wrong_scores: int
    seconds: float

    @property
    def exact(self) -> bool:
        """Whether the Verilog gave what the reference gives, when the model said it would."""
        return not (self.wrong_digits or self.wrong_scores) and (
            (self.interval, self.latency) == (self.simulated_interval, self.simulated_latency)
        )


def simulate(graph: Graph, images: Images, board: Board, fps: float, directory: Path) -> Outcome:
    """Design an accelerator for ``fps`` images a second, and run images through its Verilog."""
    found = search(graph, board, target_fps=fps)
    netlist, timing = found.netlist, found.timing
    begin = time.perf_counter()
    model = VerilatorModel(emit(netlist), netlist, directory)
    inputs = to_codes(graph, images)
    # Without gaps, it takes an image whenever it can: the interval is its own.  The latency is
    # that of images which come when they are expected.
    run = model.run(inputs)
    paced = model.run({k: v[:2] for k, v in inputs.items()}, interval=timing.interval)
    wanted = graph.evaluate(inputs)
    wrong = {name: int((run.outputs[name] != wanted[name]).sum()) for name in wanted}
    return Outcome(
        dsp=netlist.resources().dsp,
        interval=timing.interval,
        latency=timing.latency,
        simulated_interval=run.interval,
        simulated_latency=paced.latency,
        digits=run.outputs["digit"].ravel(),
        wrong_digits=wrong["digit"],
        wrong_scores=wrong["scores"],
        seconds=time.perf_counter() - begin,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Handwritten digits, from training to Verilog")
    parser.add_argument("--precision", default="w8a8", help="such as w4a4, or a file")
    parser.add_argument("--board", default="zcu104")
    parser.add_argument("--target-fps", type=float, default=100_000.0, metavar="F",
                        help="images a second to reach")
    parser.add_argument("--out", type=Path, default=Path("build/digits"), metavar="DIR")
    options = parser.parse_args()
    board = boards.load(options.board)
    options.out.mkdir(parents=True, exist_ok=True)

    training, test = digits()
    begin = time.perf_counter()
    network = train(training)
    print(f"trained on {len(training)} images in {time.perf_counter() - begin:.1f} s; "
          f"tested with {len(test)} others")
    print(f"float     {test.accuracy(network.classify(test.pixels)):6.2f} % right")

    onnx = options.out / "digits.onnx"
    export(network, test.pixels.shape[-1], onnx)
    graph = quantise(onnx, training)
    print(f"w8a8      {test.accuracy(classify(graph, test)):6.2f} %")
    if options.precision != "w8a8":
        graph = quantise(onnx, training, options.precision)
        name = graph.meta["precision"]
        print(f"{name:<9} {test.accuracy(classify(graph, test)):6.2f} %")

    outcome = simulate(graph, test, board, options.target_fps, options.out / "simulation")
    print(f"{board.name}: {outcome.dsp} DSPs, an image every {outcome.interval:,} cycles "
          f"({board.clock_mhz * 1e6 / outcome.interval:,.0f} a second at {board.clock_mhz:g} MHz)")
    print(f"Verilog   {test.accuracy(outcome.digits):6.2f} %; "
          f"{outcome.wrong_digits} digits and {outcome.wrong_scores} scores differ from the "
          f"reference ({outcome.seconds:.0f} s)")
    print(f"interval {outcome.simulated_interval:,} cycles, predicted {outcome.interval:,}; "
          f"latency {outcome.simulated_latency:,}, predicted {outcome.latency:,}")
    print(f"Verilog and memory images are in {options.out / 'simulation' / 'rtl'}")
    return 0 if outcome.exact else 1


if __name__ == "__main__":
    raise SystemExit(main())
