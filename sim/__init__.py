"""Two simulators of a design: Amaranth's, and Verilator of the emitted Verilog.

Both take what is :class:`hwgen.sim.simulated.Simulated`, and give a :class:`hwgen.sim.run.Run`.
"""
