"""What a driver has to know of an accelerator: ``accelerator.json``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from hwgen.emit.verilog import Rtl
from hwgen.parts.stream import StreamType
from hwgen.shell.registers import ERRORS, VERSION, status
from hwgen.shell.shell import ShellConfig
from hwgen.top import beat_bytes

__all__ = ["ACCELERATOR_FILE", "FORMAT", "identify", "manifest"]

ACCELERATOR_FILE, FORMAT = "accelerator.json", "hwgen-accelerator-1"


def identify(part: str, design: bytes, network: bytes) -> int:
    """64 bits by which a bitstream and its files know each other.

    Parameters
    ----------
    part : the device
    design : the file of the design point
    network : the file of the integer graph
    """
    digest = hashlib.sha256()
    for each in (part.encode(), design, network):
        digest.update(hashlib.sha256(each).digest())
    return int.from_bytes(digest.digest()[:8], "little")


def _port(stream: StreamType, beat: int) -> dict[str, Any]:
    """An input or output, whose frames begin at multiples of ``beat`` bytes."""
    type, size = stream.tensor, stream.beats * beat_bytes(stream)
    return {
        "shape": list(type.shape), "bits": type.bits, "scale": type.scale,
        "zero_point": type.quantisation.zero_point, "lanes": stream.lanes,
        "pixels": stream.pixels, "element_bytes": beat_bytes(stream) // stream.elements,
        "frame_bytes": size, "stride": -(-size // beat) * beat,
    }


def manifest(config: ShellConfig, rtl: Rtl, about: Mapping[str, Any]) -> dict[str, Any]:
    """As plain data.

    ``top`` is the name of the module; a kernel for XRT is called so.
    ``frames`` says where they are: in ``memory``, or in ``streams``.  ``inputs`` and ``outputs``
    hold, by name: ``shape`` (channels last), ``bits``, ``scale`` and ``zero_point`` of the codes;
    ``lanes``, ``pixels`` and ``element_bytes`` of a beat, which say in which order elements lie in
    memory; ``frame_bytes``, and ``stride``, the bytes from a frame to the next.  ``arguments`` and
    ``registers`` are offsets of registers.

    Parameters
    ----------
    config : the shell
    rtl : its Verilog, with what its memories begin with
    about : what else there is to say, such as ``model``, ``board``, ``clock_mhz``
    """
    netlist, word = config.netlist, config.axi.word_bytes
    beats = {name: each.port_bytes
             for name, each in (*config.sources.items(), *config.sinks.items())}
    return {
        "format": FORMAT, **about, "version": VERSION, "top": rtl.top,
        "identification": f"{config.identification:016x}", "word_bytes": word,
        "frames": config.frames,
        "inputs": {n: _port(s, beats.get(n, word)) for n, s in netlist.inputs.items()},
        "outputs": {n: _port(s, beats.get(n, word)) for n, s in netlist.outputs.items()},
        "arguments": {each.name: {"offset": each.offset, "bits": each.bits}
                      for each in config.arguments},
        "registers": status(), "errors": list(ERRORS),
        "memory": {"bytes": netlist.offchip.size, "image": "rtl/memory.bin" if rtl.memory else None}
        if netlist.offchip else None,
        "weights": "rtl/weights.bin" if rtl.weights else None,
    }
