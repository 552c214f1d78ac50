"""Designs in Amaranth's simulator: the cycle of every beat, and stalls on request."""

from hwgen.sim.amaranth.streams import Beats, run_streams
from hwgen.sim.amaranth.testbench import TimedRun, simulate, simulate_netlist

__all__ = ["Beats", "TimedRun", "run_streams", "simulate", "simulate_netlist"]
