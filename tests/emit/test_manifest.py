"""``accelerator.json`` and ``accelerator.h``: what software learns of a build."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.driver import Manifest
from hwgen.emit.header import header
from hwgen.emit.manifest import identify, manifest
from hwgen.emit.verilog import Rtl
from hwgen.offchip.bus import AxiConfig
from hwgen.shell.registers import ERRORS
from hwgen.shell.shell import ShellConfig
from hwgen.timing import sized
from hwgen.top import to_axi
from tests.networks import two_inputs
from tests.sim.test_offchip import decoder

C = Path(__file__).parents[2] / "driver" / "bare_metal"


def config(network: Any) -> ShellConfig:
    b, design = network()
    _, netlist, _ = sized(b.graph, design)
    axi = AxiConfig() if netlist.offchip is None else netlist.offchip.axi
    return ShellConfig(netlist=netlist, axi=axi, identification=0x0123_4567_89AB_CDEF)


def data(shell: ShellConfig) -> dict[str, Any]:
    """As the driver reads it."""
    rtl = Rtl("top", {}, weights=b"w" * 9 * bool(shell.netlist.loading),
              memory=shell.netlist.memory_image())
    return json.loads(json.dumps(manifest(shell, rtl, {"model": "*/ x", "board": "b"})))


@pytest.fixture(scope="module", params=[two_inputs, decoder])
def shell(request: pytest.FixtureRequest) -> ShellConfig:
    return config(request.param)


def test_what_it_says(shell: ShellConfig) -> None:
    found, netlist = data(shell), shell.netlist
    assert found["identification"] == "0123456789abcdef"
    assert found["errors"] == list(ERRORS)
    assert bool(found["weights"]) == bool(netlist.loading)
    assert (found["memory"] or {}).get("bytes") == (
        netlist.offchip.size if netlist.offchip else None)
    offsets = [each["offset"] for each in found["arguments"].values()]
    assert offsets == sorted(set(offsets))
    assert max(offsets) < min(found["registers"].values())


def test_the_driver_packs_as_the_pipeline_takes(shell: ShellConfig) -> None:
    read = Manifest(Path(), data(shell))
    random = np.random.default_rng(0)
    for ports, streams in ((read.inputs, shell.netlist.inputs),
                           (read.outputs, shell.netlist.outputs)):
        assert list(ports) == list(streams)
        for name, port in ports.items():
            q = streams[name].tensor.quantisation
            codes = random.integers(q.low, q.high + 1, (3, *port.shape))
            raw = port.pack(port.codes(codes))
            assert raw[:, : port.frame_bytes].tobytes() == to_axi(streams[name], codes)
            assert port.stride % read.data["word_bytes"] == 0
            np.testing.assert_array_equal(port.unpack(raw), codes)


@pytest.mark.parametrize("language", [["-std=c99"], ["-x", "c++", "-fsyntax-only"]])
def test_the_header_compiles(shell: ShellConfig, tmp_path: Path, language: list[str]) -> None:
    """With the bare-metal example; also where names of arguments look the same to C."""
    found = data(shell)
    first = next(iter(found["arguments"]))
    found["arguments"][first.upper()] = {"offset": 0x3F8, "bits": 32}
    (tmp_path / "accelerator.h").write_text(header(found, 9 if found["weights"] else 0))
    subprocess.run(["cc", *language, "-c", "-Wall", "-Wextra", "-Werror", "-I", str(tmp_path),
                    str(C / "run.c"), "-o", str(tmp_path / "run.o")], check=True)


def test_identification() -> None:
    """Of all that it is made of, and of each by itself."""
    known = identify("part", b"design", b"network")
    assert known == identify("part", b"design", b"network")
    assert 0 <= known < 1 << 64
    others = {identify("other", b"design", b"network"), identify("part", b"", b"designnetwork"),
              identify("part", b"design", b"other")}
    assert len(others | {known}) == 4
