"""What is searched: decompositions of a network's layers.

See :class:`hwgen.dse.tradeoff.judge.Judge`, which judges them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hwgen.boards import Board
from hwgen.dse.design.search import search
from hwgen.dse.tradeoff.digest import digest
from hwgen.dse.tradeoff.front import Hardware, Point
from hwgen.dse.tradeoff.judge import Judge
from hwgen.errors import HwgenError
from hwgen.ir import Graph
from hwgen.models.compression.decomposition import (
    Decomposition,
    from_json,
    to_json,
)
from hwgen.models.compression.layers import FloatLayer, layers
from hwgen.models.compression.rewrite import decompose, squared_error
from hwgen.models.frames.samples import Feed
from hwgen.models.lowering import lower
from hwgen.models.onnx.network import Network
from hwgen.models.quantisation.calibrate import statistics
from hwgen.models.quantisation.precision import Precision

__all__ = ["Choice", "Problem", "chosen", "designed", "hardware", "save", "weight_error"]

Choice = Mapping[str, Decomposition]
"""Decomposition by layer; layers that stay are left out."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A trained network, and how to judge what becomes of it.

    Parameters
    ----------
    network : float
    frames : float inputs without labels: for calibration, sensitivities and distillation
    accuracy : share, 0..1, that an integer graph gets right on a validation set; or any other
        measure of which more is better
    hardware : cycles and DSPs of an integer graph; see :func:`designed`
    precision : bits of activations, and of weights that are not integers already; text is read by
        :meth:`hwgen.models.quantisation.precision.Precision.parse`
    steps : steps that each network is distilled for
        (:func:`hwgen.models.training.tuning.distil`); 0: it is not
    rate, batch : learning rate and batch of the distillation
    tuned : takes a decomposed float network and returns a better one, instead of the distillation
    corrected : whether biases make up for the rounding of weights
    """

    network: Network
    frames: Sequence[Feed]
    accuracy: Callable[[Graph], float]
    hardware: Callable[[Graph], tuple]
    precision: str | Precision = "w8a8"
    steps: int = 0
    rate: float = 2e-3
    batch: int = 32
    tuned: Callable[[Network], Network] | None = None
    corrected: bool = False

    def __post_init__(self) -> None:
        if not len(self.frames):
            raise HwgenError("A search over decompositions needs frames; there are none")

    @property
    def about(self) -> dict:
        """See :class:`hwgen.dse.tradeoff.judge.Problem`."""
        return {
            "network": digest(self.network.constants), "frames": digest(list(self.frames)),
            "precision": str(self.precision), "steps": self.steps, "rate": self.rate,
            "batch": self.batch, "corrected": self.corrected,
        }

    @property
    def whole(self) -> Choice:
        """All layers stay."""
        return {}

    def key(self, choice: Choice) -> str:
        """The same text for the same choice, whatever the order of its layers."""
        return to_json(dict(sorted(choice.items())))

    def plain(self, choice: Choice) -> dict:
        """See :class:`hwgen.dse.tradeoff.judge.Problem`; :func:`chosen` is the way back."""
        return {"layers": json.loads(self.key(choice))}

    @cached_property
    def layers(self) -> dict[str, FloatLayer]:
        """Layers that could be decomposed, by name."""
        return layers(self.network)

    @cached_property
    def bits(self) -> Precision:
        """Bits of weights and activations."""
        given = self.precision
        return given if isinstance(given, Precision) else Precision.parse(given)

    def decomposed(self, choice: Choice) -> Network:
        """The float network of a choice, distilled if that is wanted."""
        student = decompose(self.network, choice)
        if self.tuned is not None:
            return self.tuned(student)
        if self.steps and choice:
            from hwgen.models.training.tuning import distil

            student = distil(student, self.network, self.frames, steps=self.steps,
                             rate=self.rate, batch=self.batch)
        return student

    def integer(self, network: Network) -> Graph:
        """The integer graph of a float network."""
        found = statistics(network, self.frames, "minmax", self.bits.activations)
        return lower(network, found.ranges, self.bits, found.means if self.corrected else None)

    def graph(self, choice: Choice) -> Graph:
        """The integer graph of a choice."""
        return self.integer(self.decomposed(choice))


def chosen(point: Point) -> dict[str, Decomposition]:
    """The choice of a point."""
    return from_json(json.dumps(point.choice["layers"]))


def hardware(judge: Judge[Problem], choice: Choice) -> Hardware:
    """Cycles and DSPs of a choice, whatever its accuracy, without the design.

    The network is not distilled, so they are soon known.
    """
    def made() -> list:
        graph = judge.problem.integer(decompose(judge.problem.network, choice))
        point = Point.of({}, 0.0, judge.problem.hardware(graph))
        return [point.interval, point.dsp]

    return Hardware(*judge.journal.once(f"hardware {judge.problem.key(choice)}", made))


def weight_error(
    judge: Judge[Problem], layer: FloatLayer, decomposition: Decomposition | None
) -> float:
    """Relative squared error of a layer's weights; 0 if it stays."""
    if decomposition is None:
        return 0.0
    return judge.journal.once(f"error {layer.name} {decomposition}",
                              lambda: squared_error(layer.weight, decomposition))


def save(judge: Judge[Problem], point: Point, folder: Path) -> None:
    """Write the network of a point and its design, for ``hwgen.build``::

        python -m hwgen.build FOLDER/graph.npz --board BOARD --design FOLDER/design.json

    Raises
    ------
    :exc:`HwgenError`
        If the point has no design.
    """
    if point.design is None:
        raise HwgenError("The point has no design: its hardware was not designed")
    folder.mkdir(parents=True, exist_ok=True)
    judge.graph(chosen(point)).save(folder / "graph.npz")
    (folder / "design.json").write_text(json.dumps(point.design, indent=1) + "\n")
    (folder / "decomposition.json").write_text(
        json.dumps(point.choice["layers"], indent=1) + "\n")


def designed(board: Board, **options) -> Callable[[Graph], Hardware]:
    """Hardware as :func:`hwgen.dse.design.search.search` designs it for a board.

    Parameters
    ----------
    board : what it must fit
    options : of the search, such as ``target_fps``
    """
    return lambda graph: Hardware.of(search(graph, board, **options))
