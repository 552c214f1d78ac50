"""What a component asks of its platform: shared modules, and those of the library."""

from __future__ import annotations

from amaranth.hdl import ClockSignal, Instance, Module

__all__ = ["add_shared", "library_instance"]


def add_shared(m: Module, name: str, config, platform):
    """Add the component of a configuration as a submodule; returns its ports.

    In simulation (no emission platform) that is the component itself.  In emission the platform
    converts each distinct configuration to a Verilog module once, and this adds an instance of it.
    """
    if hasattr(platform, "instance_of"):
        ports = config.signature.create(path=(name,))
        m.submodules[name] = platform.instance_of(config, ports)
        return ports
    component = config.create()
    m.submodules[name] = component
    return component


def library_instance(platform, name: str, **ports) -> Instance | None:
    """An instance of a hand-written Verilog module of :mod:`hwgen.emit`, clocked by ``sync``.

    None if the platform does not take one: the caller then elaborates the module's meaning.
    """
    if not hasattr(platform, "library_instance"):
        return None
    return platform.library_instance(name, i_clk=ClockSignal(), **ports)
