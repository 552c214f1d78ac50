"""What a search over networks found: points of accuracy, cycles and DSPs, and the best of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hwgen.design import DesignPoint
from hwgen.errors import HwgenError, reason

if TYPE_CHECKING:
    from hwgen.dse.design.search import Found

__all__ = ["Front", "Hardware", "Point", "best", "pareto"]

FORMAT = "hwgen-front-1"


class Hardware(NamedTuple):
    """What a network takes.

    Members
    -------
    interval : cycles a frame
    dsp : multipliers of the device
    design : the design point, if there is one
    """

    interval: float
    dsp: int
    design: DesignPoint | dict | None = None

    @classmethod
    def of(cls, found: Found) -> Hardware:
        """What :func:`hwgen.dse.design.search.search` found."""
        return cls(found.timing.interval, found.netlist.resources().dsp, found.design)


@dataclass(frozen=True)
class Point:
    """One network and its hardware.

    Members
    -------
    choice : what was chosen, as plain data that the search knows how to read
    accuracy : share that is right, 0..1
    interval : cycles a frame
    dsp : multipliers of the device
    design : the design point as plain data, if there is one
    """

    choice: dict
    accuracy: float
    interval: float
    dsp: int
    design: dict | None = None

    @classmethod
    def of(cls, choice: dict, accuracy: float, made: tuple) -> Point:
        """A point with nothing but plain data, so that a file gives back an equal one.

        Parameters
        ----------
        choice, accuracy : see :class:`Point`
        made : the fields of a :class:`Hardware`
        """
        found = Hardware(*made)
        design = found.design
        if isinstance(design, DesignPoint):
            design = design.plain()
        # Numpy's numbers become plain ones.
        choice, design = json.loads(
            json.dumps([choice, design], default=lambda value: value.item()))
        interval = float(found.interval)
        return cls(choice, float(accuracy), int(interval) if interval.is_integer() else interval,
                   int(found.dsp), design)

    @property
    def efficiency(self) -> float:
        """Frames for each million cycles and DSP."""
        return 1e6 / (max(self.interval, 1) * max(self.dsp, 1))

    def beats(self, other: Point) -> bool:
        """Whether it is at least as good in everything and better in something."""
        mine = -self.accuracy, self.interval, self.dsp
        others = -other.accuracy, other.interval, other.dsp
        return mine != others and all(a <= b for a, b in zip(mine, others, strict=True))


def pareto(points: Iterable[Point]) -> tuple[Point, ...]:
    """The points that no other beats, the fastest first; of equal points, the first one."""
    unequal: dict[tuple[float, float, int], Point] = {}
    for point in points:
        unequal.setdefault((point.accuracy, point.interval, point.dsp), point)
    found = list(unequal.values())
    front = [p for p in found if not any(other.beats(p) for other in found)]
    return tuple(sorted(front, key=lambda p: (p.interval, p.dsp, -p.accuracy)))


@dataclass(frozen=True)
class Front:
    """The points that a search found.

    Members
    -------
    points : those that none beats, the fastest first
    reference : the network as it was given
    others : those that were beaten
    meta : what was searched, as plain data
    """

    points: tuple[Point, ...]
    reference: Point
    others: tuple[Point, ...] = ()
    meta: dict = field(default_factory=dict)

    @classmethod
    def of(cls, points: Iterable[Point], reference: Point, meta: dict | None = None) -> Front:
        """The front of some points."""
        every = tuple(points)
        chosen = pareto(every)
        kept = set(map(id, chosen))
        return cls(chosen, reference, tuple(p for p in every if id(p) not in kept), meta or {})

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Front:
        """Read what :meth:`save` wrote.

        Raises
        ------
        :exc:`HwgenError`
            If the file is missing or damaged.
        """
        try:
            plain = json.loads(path.read_text())
            if plain["format"] != FORMAT:
                raise HwgenError(f"format {plain['format']!r} is not {FORMAT!r}")
            points, others = (tuple(map(_point, plain[key])) for key in ("points", "others"))
            return cls(points, _point(plain["reference"]), others, dict(plain["meta"]))
        except OSError as error:
            raise HwgenError(f"{path} cannot be read: {reason(error)}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise HwgenError(f"{path} is not the front of a search: {error}") from None

    def plot(self, path: Path, title: str = "", clock_mhz: float = 0.0) -> tuple[Path, Path]:
        """Draw accuracy over the throughput for each DSP.

        Parameters
        ----------
        path : of the files, less their suffix
        title : above
        clock_mhz : with it throughput is in frames a second; 0: in frames a million cycles

        Returns
        -------
        png, svg
            The files.
        """
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        unit = clock_mhz or 1.0
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()

        def place(points: Iterable[Point]) -> tuple[list[float], list[float]]:
            every = list(points)
            return [p.efficiency * unit for p in every], [100 * p.accuracy for p in every]

        axes.scatter(*place(self.others), s=14, color="0.75", label="beaten")
        front = axes.scatter(
            *place(self.points), s=30, c=[p.dsp for p in self.points], cmap="viridis",
            label="front",
        )
        axes.scatter(*place([self.reference]), s=90, marker="*", color="tab:red", label="as given")
        chosen = best(self)
        axes.scatter(*place([chosen]), s=110, facecolors="none", edgecolors="tab:red",
                     label="best within a point of accuracy")
        figure.colorbar(front, label="DSPs", ticks=MaxNLocator(integer=True))
        axes.set_xlabel("Frames a second and DSP" if clock_mhz
                        else "Frames a million cycles and DSP")
        axes.set_ylabel("Right, %")
        axes.set_title(title)
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", ncols=4)
        files = path.with_name(path.name + ".png"), path.with_name(path.name + ".svg")
        for file in files:
            # Without a date, the same front gives the same file.
            figure.savefig(file, dpi=120, metadata={"Date": None} if file == files[1] else None)
        return files


def _point(plain: dict) -> Point:
    return Point(**{f.name: plain[f.name] for f in fields(Point)})


def best(front: Front, loss: float = 0.01) -> Point:
    """The point with the most frames for each DSP that loses no more than some accuracy.

    Parameters
    ----------
    front : of a search
    loss : how much less than the reference may be right, as a share: 0.01 is a point

    Raises
    ------
    :exc:`HwgenError`
        If the loss is no number of 0 or more.
    """
    if not loss >= 0:
        raise HwgenError(f"Loss must be 0 or more, not {loss!r}")
    least = front.reference.accuracy - loss - 1e-12
    good = [p for p in (front.reference, *front.points) if p.accuracy >= least]
    return max(good, key=lambda p: (p.efficiency, p.accuracy))
