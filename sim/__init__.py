"""Ways to run a design: numpy reference, max-plus timing, Amaranth test bench, Verilator."""
