"""Bit widths: one pair for the whole network, or layer by layer from a file."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from hwgen.errors import HwgenError, reason

__all__ = ["Precision", "Rule"]

WEIGHTS = range(2, 9)
ACTIVATIONS = (*range(2, 9), 16)
SUFFIXES = {".toml": tomllib.loads, ".json": json.loads}


@dataclass(frozen=True)
class Rule:
    """Bit widths for the names that a pattern matches.

    Parameters
    ----------
    pattern : of names, with ``*``, ``?`` and ``[...]`` as in file names; case matters
    weights : 2..8; None leaves them to earlier rules
    activations : 2..8 or 16, likewise
    """

    pattern: str
    weights: int | None = None
    activations: int | None = None


class Precision:
    """Bit widths of weights and activations.

    Parameters
    ----------
    rules : :class:`Rule` each; later ones win.  The first one is the default, for all names.
    text : what to call this precision

    Members
    -------
    asked : whether anything has asked for bits so far
    """

    def __init__(self, rules: tuple[Rule, ...], text: str) -> None:
        self.rules = rules
        self.text = text
        self._used = {rules[0].pattern}
        self.asked = False

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, source: str | Path) -> Precision:
        """From text such as ``w8a8``, or from a file.

        A ``.toml`` or ``.json`` file holds ``default`` (``w8a8`` where it is missing) and a table
        ``layers`` from patterns to text such as ``w4a8`` or to a table with ``weights``,
        ``activations`` or both::

            default = "w8a8"
            [layers]
            "layer3.*" = "w4a4"
            "fc" = {weights = 8}

        Raises
        ------
        :exc:`HwgenError`
            If the text or the file is not of that form.
        """
        path = Path(source)
        reader = SUFFIXES.get(path.suffix.lower())
        if reader is None:
            return cls((_rule("*", str(source), "Precision"),), str(source))
        try:
            data = reader(path.read_bytes().decode())
        except OSError as error:
            raise HwgenError(f"Precision file {path} cannot be read: {reason(error)}") from None
        except (ValueError, RecursionError) as error:
            raise HwgenError(f"{path} is not a precision file: {error}") from None
        if not isinstance(data, dict) or not isinstance(data.get("layers", {}), dict):
            raise HwgenError(f"{path} must hold 'default' and a table 'layers'")
        if unknown := sorted(set(data) - {"default", "layers"}):
            raise HwgenError(f"{path} holds {unknown[0]!r}: only 'default' and the table 'layers' "
                             f"are known")
        default = _rule("*", data.get("default", "w8a8"), f"{path}: default")
        if None in (default.weights, default.activations):
            raise HwgenError(f"{path}: the default must state weights and activations")
        rules = [_rule(k, v, f"{path}: layer {k!r}") for k, v in data.get("layers", {}).items()]
        return cls((default, *rules), path.name)

    def weights(self, *names: str) -> int:
        """Bits of the weights of a layer, whose node or tensors are called ``names``."""
        return self._find("weights", names)

    def activations(self, *names: str) -> int:
        """Bits of a tensor with these names: its own, and that of the node that makes it."""
        return self._find("activations", names)

    def unused(self) -> list[str]:
        """Patterns that matched no name asked for so far."""
        return [rule.pattern for rule in self.rules if rule.pattern not in self._used]

    def _find(self, what: str, names: tuple[str, ...]) -> int:
        self.asked = True
        bits = getattr(self.rules[0], what)
        for rule in self.rules[1:]:
            if any(fnmatchcase(name, rule.pattern) for name in names):
                self._used.add(rule.pattern)
                bits = getattr(rule, what) or bits
        return bits


def _rule(pattern: str, value: object, what: str) -> Rule:
    """A rule from text or a table; ``what`` is its name in errors."""
    if isinstance(value, dict):
        if not value or set(value) - {"weights", "activations"}:
            raise HwgenError(
                f"{what} must state weights, activations or both, not "
                f"{', '.join(map(repr, value)) or 'nothing'} (names with dots need quotes)"
            )
        for key, legal in (("weights", WEIGHTS), ("activations", ACTIVATIONS)):
            bits = value.get(key, legal[0])
            if type(bits) is not int or bits not in legal:
                raise HwgenError(f"{what}: {key} must have {_widths(key)} bits, not {bits!r}")
        return Rule(pattern, value.get("weights"), value.get("activations"))
    match = re.fullmatch(r"w([0-9]{1,2})a([0-9]{1,2})", value) if isinstance(value, str) else None
    if match is None or int(match[1]) not in WEIGHTS or int(match[2]) not in ACTIVATIONS:
        raise HwgenError(
            f"{what} must look like 'w8a8', with {_widths('weights')} bits for weights and "
            f"{_widths('activations')} for activations, not {value!r}"
        )
    return Rule(pattern, int(match[1]), int(match[2]))


def _widths(what: str) -> str:
    return "2 to 8" if what == "weights" else "2 to 8 or 16"
