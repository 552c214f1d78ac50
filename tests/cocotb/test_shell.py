"""The emitted shell of a small network in Verilator, driven by cocotb with cocotbext-axi."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hwgen.emit.manifest import ACCELERATOR_FILE, manifest
from hwgen.emit.verilog import emit
from hwgen.shell.shell import ShellConfig
from hwgen.timing import sized
from tests.cocotb.shell import FRAMES, MIDDLES, SEEDS
from tests.cocotb.verilog import run_cocotb
from tests.networks import two_inputs

pytestmark = pytest.mark.verilator


def test_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b, design = two_inputs()
    _, netlist, _ = sized(b.graph, design)
    config = ShellConfig(netlist=netlist, identification=0x1234_5678_9ABC_DEF0)
    rtl = emit(netlist, shell=config)
    (tmp_path / ACCELERATOR_FILE).write_text(json.dumps(manifest(config, rtl, {})))
    random = np.random.default_rng(0)
    frames = {name: random.integers(-128, 128, (5, *type.shape))
              for name, type in b.graph.inputs.items()}
    np.savez(tmp_path / FRAMES, **frames, **b.graph.evaluate(frames))
    count = run_cocotb(rtl, "tests.cocotb.shell", tmp_path, monkeypatch)
    assert count == SEEDS + len(MIDDLES)
