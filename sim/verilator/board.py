"""A simulated board: the Verilog of a shell as a program that a driver talks to."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from hwgen.emit.verilog import Rtl
from hwgen.errors import HwgenError
from hwgen.shell.shell import CONTROL_PORT, FRAMES_PORT, ShellConfig
from hwgen.sim.verilator.compiler import compile_verilog
from hwgen.sim.verilator.harness import template
from hwgen.top import memory_port

__all__ = ["BASE", "compile_board"]

BASE, SIZE = 0x1000_0000, 1 << 26
"""Where the memory of the board begins, and its bytes."""


def compile_board(
    rtl: Rtl, config: ShellConfig, directory: Path, *, size: int = SIZE, jobs: int = 2,
    optimise: bool = True,
) -> Path:
    """Compile a shell and memory at its ports.

    Parameters
    ----------
    rtl : the Verilog of the shell
    config : :class:`ShellConfig`
    directory : where to build; files stay there
    size : bytes of the memory
    jobs, optimise : see :func:`compile_verilog`

    Returns
    -------
    :class:`Path`
        The program; what it understands stands in ``board.cpp.j2``.

    Raises
    ------
    :exc:`HwgenError`
        If Verilator or the compiler fails, or if the ports have words of different sizes.
    """
    offchip = config.netlist.offchip
    if offchip is not None and offchip.axi.data_bits != config.axi.data_bits:
        raise HwgenError(f"Frames and off-chip memory must have words of one size to be simulated, "
                         f"not {config.axi.data_bits} and {offchip.axi.data_bits} bits")
    directory = Path(directory).resolve()
    rtl.write(directory / "rtl")
    (directory / "memory.hpp").write_text(
        files("hwgen.sim.verilator").joinpath("memory.hpp").read_text())
    pins = [FRAMES_PORT, *(memory_port(k) for k in range(offchip.ports if offchip else 0))]
    (directory / "board.cpp").write_text(template("board.cpp.j2").render(
        top=rtl.top, control=CONTROL_PORT, memory={
            "pins": pins, "word_bytes": config.axi.word_bytes, "base": BASE, "size": size}))
    (directory / "hierarchy.vlt").write_text(
        "`verilator_config\n" + "".join(f'no_inline -module "{n}"\n' for n in rtl.large))
    return compile_verilog(
        rtl.verilog, rtl.top, [directory / "board.cpp"], directory / "rtl", jobs=jobs,
        optimise=optimise, flags=(str(directory / "hierarchy.vlt"),))
