"""Recurrent classifiers of real series: what integers cost, and all test series in Verilog.

    python -m benchmarks.recurrent [--quick] [--board BOARD]

Trains an LSTM and a GRU in PyTorch on each data set (and a bidirectional LSTM on one), quantises
them to w8a8, and runs every series of the test set through the Verilog.  The series are those of
the UCR and UEA archives that come with the package aeon, of which only the files are used:
``pip install --no-deps aeon``.  Without it, the rows of scikit-learn's digits are the steps.
``--quick``: one data set.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hwgen import boards, models
from hwgen.boards import Board
from hwgen.dse.design.search import search
from hwgen.emit.verilog import emit
from hwgen.ir import Graph
from hwgen.models.training.repeatable import repeatable
from hwgen.sim.verilator import VerilatorModel

STEP_CYCLES = 200
"""Cycles a step that designs are made for."""
BATCH = 16
UNITS = 32


@dataclass(frozen=True)
class Series:
    """Series and what they are.

    Members
    -------
    values : float32, ``(count, steps, channels)``
    labels : int64, ``(count,)``
    """

    values: np.ndarray
    labels: np.ndarray

    def accuracy(self, classes: np.ndarray) -> float:
        """Percentage of the series that are classified right."""
        return 100 * float(np.mean(classes == self.labels))


@dataclass(frozen=True)
class Case:
    """What is trained on what.

    Members
    -------
    name : of the data set
    kind : ``"LSTM"`` or ``"GRU"``
    epochs : passes over the training set
    bidirectional : whether a second cell reads the series from its end
    """

    name: str
    kind: str
    epochs: int
    bidirectional: bool = False


CASES = [
    Case("ItalyPowerDemand", "LSTM", 200), Case("ItalyPowerDemand", "GRU", 200),
    Case("JapaneseVowels_eq", "LSTM", 60), Case("JapaneseVowels_eq", "GRU", 60),
    Case("JapaneseVowels_eq", "LSTM", 60, True),
    Case("BasicMotions", "LSTM", 100), Case("BasicMotions", "GRU", 100),
    Case("GunPoint", "LSTM", 300), Case("GunPoint", "GRU", 300),
]


def archive(name: str, folder: Path) -> tuple[Series, Series]:
    """Training and test set of the archives, scaled as the training set asks for."""
    parts = []
    for part in ("TRAIN", "TEST"):
        lines = (folder / name.removesuffix("_eq") / f"{name}_{part}.ts").read_text().splitlines()
        begin = next(k for k, line in enumerate(lines) if line.lower().startswith("@data"))
        rows = [line.split(":") for line in lines[begin + 1 :] if line.strip()]
        values = np.array([[channel.split(",") for channel in row[:-1]] for row in rows], float)
        parts.append((values.transpose(0, 2, 1), [row[-1].strip() for row in rows]))
    names = sorted(set(parts[0][1]))
    mean, spread = (f(parts[0][0], axis=(0, 1)) for f in (np.mean, np.std))
    train, test = (
        Series(((values - mean) / spread).astype(np.float32),
               np.array([names.index(label) for label in labels]))
        for values, labels in parts)
    return train, test


def digits() -> tuple[Series, Series]:
    """Digits row by row, every third of them in the test set."""
    from sklearn.datasets import load_digits  # pyright: ignore[reportMissingImports]

    data = load_digits()
    values, labels = (data.images / 8 - 1).astype(np.float32), data.target.astype(np.int64)
    tested = np.arange(len(labels)) % 3 == 0
    return Series(values[~tested], labels[~tested]), Series(values[tested], labels[tested])


class Classifier(nn.Module):
    """A recurrent layer, and a linear one behind its last step."""

    def __init__(self, case: Case, channels: int, classes: int) -> None:
        super().__init__()
        self.cells = getattr(nn, case.kind)(
            channels, UNITS, batch_first=True, bidirectional=case.bidirectional)
        self.head = nn.Linear(UNITS * (1 + case.bidirectional), classes)

    def forward(self, x):
        states = self.cells(x)[1]
        states = states[0] if isinstance(states, tuple) else states
        last = torch.cat([states[0], states[1]], 1) if len(states) > 1 else states[0]
        return self.head(last)

    def classify(self, values: np.ndarray) -> np.ndarray:
        """The classes that the float network sees."""
        with torch.no_grad():
            return self(torch.from_numpy(values)).argmax(1).numpy()


def train(case: Case, series: Series) -> Classifier:
    """A trained network; seconds, or a minute for the longest series."""
    values, labels = torch.from_numpy(series.values), torch.from_numpy(series.labels)
    batches = max(len(labels) // BATCH, 1)
    with repeatable(0):
        network = Classifier(case, values.shape[-1], int(labels.max()) + 1).train()
        optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, max_lr=0.01, total_steps=case.epochs * batches)
        for _ in range(case.epochs):
            order = torch.randperm(len(labels))
            for k in range(batches):
                chosen = order[k * BATCH : (k + 1) * BATCH]
                noisy = values[chosen] + 0.1 * torch.randn_like(values[chosen])
                optimiser.zero_grad()
                loss = F.cross_entropy(network(noisy), labels[chosen], label_smoothing=0.1)
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
                schedule.step()
    return network.eval()


def quantised(network: Classifier, series: Series, folder: Path) -> Graph:
    """The integer graph at w8a8, its ranges taken from the first series of a training set."""
    path, frames = folder / "net.onnx", folder / "calibration.npy"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.from_numpy(series.values[:1]),), str(path), dynamo=False,
                          opset_version=17, input_names=["series"], output_names=["scores"])
    np.save(frames, series.values[:64])
    return models.load(str(path), calibration=frames)


def codes(graph: Graph, series: Series) -> dict[str, np.ndarray]:
    """The series as the accelerator takes them."""
    ((name, tensor),) = graph.inputs.items()
    axis = graph.meta["axes"][name]
    return {name: tensor.quantisation.quantise(np.moveaxis(series.values, axis, -1))}


@dataclass(frozen=True)
class Outcome:
    """A design, and what its Verilog did; cycles are from series to series.

    Members
    -------
    dsp : multipliers of the device that it takes
    predicted, simulated : cycles
    wrong : scores that are not as in the reference
    classes : what the Verilog saw
    """

    dsp: int
    predicted: int
    simulated: int
    wrong: int
    classes: np.ndarray


def simulated(graph: Graph, series: Series, board: Board, folder: Path) -> Outcome:
    """A design, and all series through its Verilog."""
    steps = series.values.shape[1]
    found = search(graph, board, target_fps=1e6 * board.clock_mhz / (steps * STEP_CYCLES))
    model = VerilatorModel(emit(found.netlist), found.netlist, folder)
    inputs, (name,) = codes(graph, series), graph.outputs
    run = model.run(inputs)
    wrong = int((run.outputs[name] != graph.evaluate(inputs)[name]).sum())
    return Outcome(found.netlist.resources().dsp, found.timing.interval, run.interval, wrong,
                   run.outputs[name].argmax(-1).ravel())


def main() -> int:
    parser = argparse.ArgumentParser(description="Recurrent classifiers of real series")
    parser.add_argument("--quick", action="store_true", help="one data set")
    parser.add_argument("--board", default="zcu104")
    options = parser.parse_args()
    board, package = boards.load(options.board), find_spec("aeon")
    folder = None
    if package is not None and package.submodule_search_locations:
        folder = Path(package.submodule_search_locations[0]) / "datasets" / "data"
    cases = [c for c in CASES if not options.quick or c.name == CASES[0].name]
    if folder is None:
        print("aeon is not installed: rows of digits instead of its series")
        cases = [replace(c, name="digits", epochs=20) for c in CASES[:2]]
    print("                                         right, %           wrong      cycles a series\n"
          "data               cell        float  integer  Verilog  scores  predicted simulated"
          "  DSP    s")
    exact = True
    for case in cases:
        begin = time.perf_counter()
        training, test = archive(case.name, folder) if folder else digits()
        network = train(case, training)
        with tempfile.TemporaryDirectory() as name:
            graph = quantised(network, training, Path(name))
            got = graph.evaluate(codes(graph, test))[graph.outputs[0]].argmax(-1).ravel()
            found = simulated(graph, test, board, Path(name) / "simulation")
        exact &= not found.wrong and found.predicted == found.simulated
        cell = f"{'2 x ' if case.bidirectional else ''}{case.kind} {UNITS}"
        print(f"{case.name:<18} {cell:<11} {test.accuracy(network.classify(test.values)):6.2f}"
              f" {test.accuracy(got):8.2f} {test.accuracy(found.classes):8.2f} {found.wrong:7}"
              f" {found.predicted:10,} {found.simulated:9,} {found.dsp:4}"
              f" {time.perf_counter() - begin:4.0f}", flush=True)
    return int(not exact)


if __name__ == "__main__":
    sys.exit(main())
