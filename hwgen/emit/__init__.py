"""Emission: Verilog with distinct modules emitted once, memory images."""
