"""The emitted AxiPort in Verilator, driven by cocotb, with cocotbext-axi as the memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwgen.emit.verilog import emit_component
from tests.cocotb.axi_port import SEEDS
from tests.cocotb.port_top import CONFIG, PortTop
from tests.cocotb.verilog import run_cocotb

pytestmark = pytest.mark.verilator


def test_axi_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rtl = emit_component(PortTop(CONFIG))
    assert run_cocotb(rtl, "tests.cocotb.axi_port", tmp_path, monkeypatch) == SEEDS + 8 + 4
