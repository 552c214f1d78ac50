"""``accelerator.h``: the registers of a build for software in C."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

__all__ = ["HEADER_FILE", "header"]

HEADER_FILE = "accelerator.h"


def _macro(name: str) -> str:
    """As part of the name of a macro."""
    return re.sub(r"\W", "_", name, flags=re.ASCII).upper()


def _string(text: str) -> str:
    """Inside the quotes of a string of C."""
    return "".join(c if (c.isalnum() and c.isascii()) or c in "_-./: " else
                   "".join(f"\\{byte:03o}" for byte in c.encode()) for c in text)


def header(data: Mapping[str, Any], weights_bytes: int) -> str:
    """The header.

    Parameters
    ----------
    data : what ``accelerator.json`` holds; see :func:`hwgen.emit.manifest.manifest`
    weights_bytes : bytes of the weights that are loaded
    """
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                              keep_trailing_newline=True, autoescape=False)
    environment.filters |= {"macro": _macro, "string_of_c": _string}
    macros: dict[str, str] = {}
    for name in data["arguments"]:
        made = _macro(name)
        while made in macros.values():
            made += "_"
        macros[name] = made
    text = files("hwgen.emit").joinpath("accelerator.h.j2").read_text(encoding="utf-8")
    model = re.sub(r"[^\w ./-]|/(?=\*)|\*(?=/)", "", str(data.get("model", "")))
    return environment.from_string(text).render({
        **data, "macros": macros, "model": model, "weights_bytes": weights_bytes,
        "ports": {**data["inputs"], **data["outputs"]}
        if data["frames"] == "memory" else {},
    })
