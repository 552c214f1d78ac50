"""The command line: from a network's name or file to proven Verilog.

    python -m hwgen.build yolov5n --board zcu102
"""

from __future__ import annotations

if __name__ == "__main__":
    # The imports below take a while.
    from hwgen.interrupt import end_at_once

    end_at_once()

import argparse
import gc
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NoReturn

import hwgen.boards as boards
from hwgen import __version__, extras
from hwgen.dse.design.search import OBJECTIVES, OFFCHIP_POLICIES
from hwgen.errors import HwgenError, HwgenWarning, named_reason
from hwgen.interrupt import Interrupted, ending_with_signals, private_temporary
from hwgen.options import MEASURE, SHELLS, Options
from hwgen.output import Output
from hwgen.provenance import command_line

with extras.or_exit():
    from rich.console import Console
    from rich.markup import escape

    from hwgen.emit.projects import KINDS
    from hwgen.flow import Prepared, build
    from hwgen.report.figures import left_to_host, summary

__all__ = ["main"]


@dataclass
class Phases:
    """Times the phases of a build, and shows which one is at work."""

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[Callable[[str], None]]:
        begin = time.perf_counter()
        with self.console.status(name) as status:
            yield lambda detail: status.update(f"{name}: {detail}")
        self.seconds[name] = round(time.perf_counter() - begin, 3)
        self.console.print(f"[green]done[/] {name} ({self.seconds[name]:.1f} s)", highlight=False)


class _Console(Console):
    """A console to which nobody need listen: a build goes on when its reader has gone."""

    def on_broken_pipe(self) -> None:
        _deafen()


def _deafen() -> None:
    """Send to nowhere what is still printed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """Turns wrong options into the same one-line error as everything else."""

    def error(self, message: str) -> NoReturn:
        raise HwgenError(f"{message} (see --help)")


class _List(argparse.Action):
    """Prints the networks or the boards and exits, whatever else is given, as ``--help`` does."""

    def __call__(self, parser: argparse.ArgumentParser, namespace, values, *_) -> NoReturn:
        if values == "boards":
            print("\n".join(boards.names()))
            parser.exit()
        with extras.named():
            from hwgen.models import zoo

        # What is piped need not fit a window.
        Console(width=None if sys.stdout.isatty() else 140).print(zoo.listing())
        parser.exit()


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"must be names with commas between, not {text!r}")
    return names


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be numbers with commas between, not {text!r}") from None


def _parser() -> argparse.ArgumentParser:
    def positive(text: str) -> float:
        value = float(text)
        if not 0 < value < 1e9:
            raise argparse.ArgumentTypeError(f"must be positive, not {text}")
        return value

    def rate(text: str) -> float:
        value = float(text)
        if not 0.001 <= value <= 1e9:
            raise argparse.ArgumentTypeError(f"must be between 0.001 and 1e9, not {text}")
        return value

    def seed(text: str) -> int:
        value = int(text)
        if not 0 <= value < 1 << 31:
            raise argparse.ArgumentTypeError(f"must be between 0 and {(1 << 31) - 1}, not {text}")
        return value

    def count(text: str) -> int:
        value = int(text)
        if not 0 < value <= 1_000_000:
            raise argparse.ArgumentTypeError(f"must be between 1 and 1000000, not {text}")
        return value

    def size(text: str) -> int | tuple[int, int]:
        parts = [count(part) for part in text.lower().split("x")]
        if len(parts) > 2:
            raise argparse.ArgumentTypeError(f"must be one number, or HxW, not {text}")
        return parts[0] if len(parts) == 1 else (parts[0], parts[1])

    parser = _Parser(prog="hwgen", description="From a network to proven Verilog.")
    parser.add_argument("model", metavar="MODEL",
                        help="zoo name, an .onnx or .tflite file, or the graph.npz of an "
                             "earlier build")
    parser.add_argument("--list", action=_List, nargs="?", choices=("networks", "boards"),
                        const="networks", help="print the networks of the zoo, or the boards")
    parser.add_argument("--version", action="version", version=f"hwgen {__version__}")
    parser.add_argument("--board", required=True, help="board name, or a .toml file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: build/MODEL-BOARD")
    parser.add_argument("--size", type=size, metavar="N|HxW",
                        help="height and width of the input image, one number if they are alike, "
                             "the tokens of a text, or the extent that a file leaves open")
    parser.add_argument("--layers", type=count, metavar="N",
                        help="keep the first N blocks of a zoo transformer, or of each stage")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="state dict or .onnx")
    parser.add_argument("--calibration", type=Path, metavar="PATH",
                        help="directory of images or arrays, an image, or a file of arrays")
    parser.add_argument("--calibrate", choices=("minmax", "percentile", "mse"), default="minmax",
                        help="how ranges are chosen")
    parser.add_argument("--equalise", action="store_true", help="move scales between layers")
    parser.add_argument("--correct-bias", action="store_true",
                        help="biases make up for rounded weights")
    parser.add_argument("--precision", default="w8a8", metavar="P",
                        help="bits of weights and activations, such as w4a8, or a file")
    parser.add_argument("--decomposition", type=Path, metavar="FILE",
                        help="layers that become low rank")
    parser.add_argument("--outputs", type=_names, default=(), metavar="NAME,...",
                        help="tensors of the file at which the accelerator ends; what is behind "
                             "them is left to host.onnx")
    parser.add_argument("--fix", type=_names, default=(), metavar="NAME=VALUE,...",
                        help="inputs of a file that are always the same number (such as "
                             "attention_mask=1), or 0, 1, 2, … (position_ids=range); "
                             "NAME=input: it is an input like any other")
    parser.add_argument("--keep-state", action="store_true",
                        help="recurrent cells go on with the state of the frame before, and begin "
                             "anew after a reset alone")
    parser.add_argument("--mean", type=_numbers, default=(), metavar="R,G,B",
                        help="how images were normalised in training: what was subtracted from "
                             "each channel of pixel / 255")
    parser.add_argument("--std", type=_numbers, default=(), metavar="R,G,B",
                        help="what each channel was divided by then")
    parser.add_argument("--accuracy", action="store_true",
                        help="compare with the float network, tensor by tensor")
    parser.add_argument("--clock", type=positive, default=0.0, metavar="MHZ")
    parser.add_argument("--target-fps", type=rate, default=0.0, metavar="F",
                        help="reach F frames a second with as little as possible")
    parser.add_argument("--objective", choices=OBJECTIVES, default="throughput",
                        help="what the search is after")
    parser.add_argument("--offchip", choices=OFFCHIP_POLICIES, default="auto",
                        help="when queues and weights may be in off-chip memory")
    parser.add_argument("--sparse", nargs="?", const=MEASURE, metavar="FILE",
                        help="pass over zeros where that pays, by the statistics of a file that an "
                             "earlier build wrote, or of the calibration frames")
    parser.add_argument("--design", type=Path, metavar="FILE", help="use this design.json")
    parser.add_argument("--shell", nargs="?", const=SHELLS[0], choices=SHELLS, default="",
                        help="control by AXI4-Lite, an interrupt, and what a driver has to know; "
                             "frames are in memory, behind AXI4, or come as streams that a DMA "
                             "engine has")
    parser.add_argument("--project", choices=tuple(KINDS), default="",
                        help="scripts for other tools around the Verilog: up to a bitstream "
                             "(vivado, for boards with processors; xrt, for accelerator cards; "
                             "both with --shell), synthesis alone, or a core file")
    parser.add_argument("--prefix", default="", metavar="NAME_",
                        help="what the names of all modules and files of the Verilog begin with, "
                             "so that they are not those of another design")
    parser.add_argument("--simulate", type=count, default=0, metavar="FRAMES",
                        help="run frames through the Verilog, in Verilator")
    parser.add_argument("--report-only", action="store_true", help="no Verilog")
    parser.add_argument("--seed", type=seed, default=0,
                        help="of weights, crops, noise and stalls")
    return parser


def _dashed(name: str) -> str:
    """How an option is written on the command line."""
    return f"--{name.replace('_', '-')}"


UNSET = object()
"""Stands for options that were not given."""


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options; ``command`` is how they were given, ``given`` the names of those that were."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    # argparse leaves alone what has a value already, unless it is given.
    found = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(arguments), UNSET)))
    arguments.given = [name for name, value in vars(found).items() if value is not UNSET]
    arguments.command = command_line(parser.prog, argv)
    return arguments


@contextmanager
def _shown_warnings(console: Console) -> Iterator[list[str]]:
    """Shows each :class:`HwgenWarning` in a line, and collects them."""
    seen: list[str] = []

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        if issubclass(category, HwgenWarning):
            seen.append(str(message))
            console.print(f"[yellow]warning[/] {escape(str(message))}", highlight=False)
        else:
            before(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.simplefilter("always", HwgenWarning)
        before, warnings.showwarning = warnings.showwarning, show
        yield seen


def _build(
    arguments: argparse.Namespace, console: Console, warned: list[str],
    cleaners: list[Callable[[], None]],
) -> dict:
    values = vars(arguments)
    asked = Options(**{each.name: values[each.name] for each in fields(Options)})
    # All that can be wrong without reading the network is wrong before the output is touched.
    ready = Prepared.of(asked, arguments.given, _dashed)
    phases = Phases(console)
    out = arguments.out or Path("build") / f"{asked.name}-{ready.board.name}"
    output = Output(out)
    cleaners.append(output.discard)
    with output.replaced() as folder:
        built = build(ready, phase=phases, show=console.print, command=arguments.command)
        data = built.report
        if warned:
            data["warnings"] = warned
        data["seconds"] = phases.seconds
        built.fill(folder)
    console.print(summary(data, built.board.resources))
    if data.get("host"):
        console.print(f"left to the host (host.onnx): {left_to_host(data['host'])}",
                      highlight=False, markup=False)
    _say_what_stayed(console, output)
    console.print(f"written to {out}", highlight=False)
    return data


def _say_what_stayed(console: Console, output: Output) -> None:
    """Name the files of the user's in the output that were kept."""
    for name in output.beside:
        console.print(f"[yellow]kept[/] {escape(name)}, which is not as it was written: the new "
                      f"one is {escape(name)}.new", highlight=False)
    if others := sorted(set(output.kept) - set(output.beside)):
        console.print(f"kept what this build did not write: {escape(', '.join(others[:6]))}"
                      f"{f' and {len(others) - 6} more' if others[6:] else ''}", highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (0; 1 on a mismatch; 2 on wrong input)."""
    console = _Console()
    try:
        arguments = _parse(sys.argv[1:] if argv is None else argv)
        with (
            ending_with_signals() as cleaners, private_temporary() as temporary,
            _shown_warnings(console) as warned,
        ):
            cleaners.append(lambda: shutil.rmtree(temporary, ignore_errors=True))
            with extras.named():
                data = _build(arguments, console, warned, cleaners)
    except HwgenError as error:
        print(f"hwgen: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        _deafen()
        return 0
    except OSError as error:
        print(f"hwgen: {named_reason(error)}", file=sys.stderr)
        return 2
    except Interrupted as signal:
        with warnings.catch_warnings():
            # Of half a design that is let go now.
            warnings.simplefilter("ignore")
            signal.__traceback__ = signal.__context__ = None
            gc.collect()
        print(f"hwgen: {signal.word}", file=sys.stderr)
        return signal.status
    except KeyboardInterrupt:
        print("hwgen: interrupted", file=sys.stderr)
        return 130
    return 1 if data.get("simulated", {}).get("mismatches") else 0


if __name__ == "__main__":
    sys.exit(main())
