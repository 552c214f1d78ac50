"""What a component asks of its platform: modules that are emitted once, and library modules."""

from __future__ import annotations

from amaranth.hdl import ClockSignal, Instance, Module
from amaranth.lib import wiring

__all__ = ["add_module", "add_shared", "library_instance"]


def add_shared(m: Module, name: str, config, platform):
    """Add the component of a configuration as a submodule, as an instance of a shared module.

    The emission platform converts each distinct configuration to a Verilog module once, and this
    function adds an instance of that module.  On other platforms (in simulation) it adds the
    component itself.

    Returns
    -------
    the ports
    """
    if hasattr(platform, "instance_of"):
        ports = config.signature.create(path=(name,))
        m.submodules[name] = platform.instance_of(config, ports)
        return ports
    component = config.create()
    m.submodules[name] = component
    return component


def add_module(m: Module, name: str, component: wiring.Component, platform):
    """Add a component that makes its own clock domains, as a module that is called ``name``.

    Returns
    -------
    the ports
    """
    if hasattr(platform, "module"):
        ports = component.signature.create(path=(name,))
        m.submodules[name] = platform.module(component, name, ports)
        return ports
    m.submodules[name] = component
    return component


def library_instance(platform, name: str, **ports) -> Instance | None:
    """An instance of a hand-written Verilog module of :mod:`hwgen.device`, clocked by ``sync``.

    Returns
    -------
    the instance; None if the platform takes none, and the caller must elaborate an equivalent
    """
    if not hasattr(platform, "library_instance"):
        return None
    return platform.library_instance(name, i_clk=ClockSignal(), **ports)
