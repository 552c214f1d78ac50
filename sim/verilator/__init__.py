"""The emitted Verilog in Verilator: numpy frames in, numpy frames out, and the cycles they took."""

from hwgen.sim.verilator.compiler import compile_verilog, lint
from hwgen.sim.verilator.harness import Harness, VerilogRun
from hwgen.sim.verilator.memory import MemoryModel, MemoryUse
from hwgen.sim.verilator.model import VerilatorModel
from hwgen.sim.verilator.proof import Proof, prove

__all__ = [
    "Harness", "MemoryModel", "MemoryUse", "Proof", "VerilatorModel", "VerilogRun",
    "compile_verilog", "lint", "prove",
]
