"""Which test files exercise which block and op: each must have one that stalls its streams.

A file exercises what it names.  ``python -m tests.test_blocks_tested`` prints the list.
"""

from __future__ import annotations

import ast
import inspect
from functools import cache
from pathlib import Path

import pytest

import hwgen.blocks as blocks
import hwgen.ir as ir
from hwgen.blocks import registry
from hwgen.blocks.base import BlockConfig
from hwgen.ir.op import Op

FOLDER = Path(__file__).parent
FILES = [path for path in sorted(FOLDER.rglob("test_*.py")) if path != Path(__file__)]
STALLS = {"check_under_stalls", "stall"}
"""A function or an argument by which a file has pauses at random, on both sides of a block."""
ON_TIME = {"check_on_time", "schedule", "fold_ends"}
"""What holds a block to its exact time; ``fold_ends`` where that depends on the data."""
BLOCKS = {
    name: thing for name, thing in vars(blocks).items()
    if inspect.isclass(thing) and issubclass(thing, BlockConfig) and not inspect.isabstract(thing)
}


def blocks_of(op: type[Op]) -> set[str]:
    """Configurations of the blocks that carry out an op; none for a change of shape alone."""
    modules = {found.make.__module__ for found in registry._registrations(op)}
    return {name for name, config in BLOCKS.items() if config.__module__ in modules}


OPS = {
    name: blocks_of(thing) for name, thing in vars(ir).items()
    if inspect.isclass(thing) and issubclass(thing, Op) and not inspect.isabstract(thing)
}
"""For each op, the blocks that carry it out."""


@cache
def names(path: Path) -> frozenset[str]:
    """All names, attributes and arguments in a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
    return frozenset(found)


def exercising(*sets: set[str]) -> list[str]:
    """Test files that name something of each of some sets."""
    return [str(path.relative_to(FOLDER)) for path in FILES
            if all(names(path) & one for one in sets)]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_has_stalls_and_exact_times(block: str) -> None:
    assert exercising({block}, STALLS, ON_TIME), f"No test of {block} has stalls and exact times"


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_exact_values_and_stalls_in_hardware(op: str) -> None:
    assert any(name.startswith("ir/") for name in exercising({op})), f"tests/ir has no {op}"
    assert not OPS[op] or exercising({op, *OPS[op]}, STALLS), f"No test of {op} has stalls"


if __name__ == "__main__":
    print("Test files that exercise each block and op; with * those in which streams stall")
    for name, also in [*((name, set()) for name in BLOCKS), *OPS.items()]:
        stalled = exercising({name}, STALLS)
        by = f" by {', '.join(sorted(also))}" if also else ""
        print(f"{name}{by}")
        for file in exercising({name}):
            print(f"    {'*' if file in stalled else ' '} {file}")
