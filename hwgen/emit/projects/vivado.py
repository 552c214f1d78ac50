"""A project for Vivado: processor, accelerator, bitstream, and what the driver needs beside it.

The commands are those that FINN (``make_zynq_proj``) and hls4ml (VivadoAccelerator) use, and
UG835's.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwgen.emit.projects.project import Kind, Project, render
from hwgen.errors import HwgenError

__all__ = ["PROCESSORS", "VIVADO", "Processor"]


@dataclass(frozen=True, kw_only=True)
class Processor:
    """How Vivado calls the parts of a processor.

    Members
    -------
    ip : the IP, and its rule of automation
    automation : what the rule is told
    settings : properties of the IP, besides those of ports and clock
    clock : property of the clock, in MHz
    port : properties of the ``k``-th memory port, with ``{}`` for ``k``: whether it is open, and
        its width in bits
    first : the first ``k`` there
    clock_pin, reset_pin, interrupt_pin, control, control_clock : pins
    ports, port_clocks : pins of the ``k``-th memory port, with ``{}`` for ``k``
    port_bits : width of memory ports, bits
    base : address of the registers
    """

    ip: str
    automation: str
    settings: dict[str, str]
    clock: str
    port: tuple[str, str]
    first: int
    clock_pin: str
    reset_pin: str
    interrupt_pin: str
    control: str
    control_clock: str
    ports: str
    port_clocks: str
    port_bits: int
    base: int

    def configured(self, clock_mhz: float, ports: int) -> dict[str, str]:
        """All properties, by name."""
        opened, width = self.port
        found = {**self.settings, self.clock: f"{clock_mhz:.10g}"}
        for k in range(self.first, self.first + ports):
            found |= {opened.format(k): "1", width.format(k): str(self.port_bits)}
        return found


PROCESSORS = {
    "zynq-ultrascale+": Processor(
        ip="zynq_ultra_ps_e", automation='apply_board_preset "1"',
        settings={"PSU__USE__M_AXI_GP0": "1", "PSU__USE__M_AXI_GP1": "0",
                  "PSU__USE__M_AXI_GP2": "0", "PSU__USE__IRQ0": "1"},
        clock="PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ",
        port=("PSU__USE__S_AXI_GP{}", "PSU__SAXIGP{}__DATA_WIDTH"), first=2,
        clock_pin="pl_clk0", reset_pin="pl_resetn0", interrupt_pin="pl_ps_irq0",
        control="M_AXI_HPM0_FPD", control_clock="maxihpm0_fpd_aclk",
        ports="S_AXI_HP{}_FPD", port_clocks="saxihp{}_fpd_aclk", port_bits=128, base=0xA000_0000,
    ),
    "zynq-7000": Processor(
        ip="processing_system7",
        automation='make_external "FIXED_IO, DDR" apply_board_preset "1" '
                   'Master "Disable" Slave "Disable"',
        settings={"PCW_USE_M_AXI_GP0": "1", "PCW_USE_FABRIC_INTERRUPT": "1",
                  "PCW_IRQ_F2P_INTR": "1"},
        clock="PCW_FPGA0_PERIPHERAL_FREQMHZ",
        port=("PCW_USE_S_AXI_HP{}", "PCW_S_AXI_HP{}_DATA_WIDTH"), first=0,
        clock_pin="FCLK_CLK0", reset_pin="FCLK_RESET0_N", interrupt_pin="IRQ_F2P",
        control="M_AXI_GP0", control_clock="M_AXI_GP0_ACLK",
        ports="S_AXI_HP{}", port_clocks="S_AXI_HP{}_ACLK", port_bits=64, base=0x4000_0000,
    ),
}
"""By the board's ``processor`` (UG585, UG1085, PG082, PG201)."""

PORTS = 4
"""Memory ports of either."""


def _files(project: Project) -> dict[str, str]:
    board, offchip = project.board, project.netlist.offchip
    processor = PROCESSORS[board.processor]
    if offchip is not None and offchip.axi.data_bits > processor.port_bits:
        raise HwgenError(
            f"Project vivado reaches off-chip memory through ports of the processor, which have "
            f"{processor.port_bits} bits, and those of this design for board {board.name} have "
            f"{offchip.axi.data_bits}: build without off-chip memory, or give a board file whose "
            f"memory is the processor's")
    masters = project.masters
    # The masters share the ports, as evenly as that goes; the frames come first.
    memories = [
        {"cell": f"memory_{k}", "masters": masters[k::PORTS],
         "pin": processor.ports.format(k), "clock": processor.port_clocks.format(k)}
        for k in range(min(PORTS, len(masters)))]
    script = render(
        "vivado.tcl.j2", project, processor=processor, memories=memories,
        settings=processor.configured(project.clock_mhz, len(memories)),
        board_files=f"*:{board.board_part.split(':')[1]}:*")
    return {"vivado/build.tcl": script}


VIVADO = Kind(
    name="vivado", shell=True, fits=lambda board: bool(board.processor and board.board_part),
    wants="a processor beside the fabric and a board file of Vivado's", files=_files,
)
