"""The shell around an accelerator: control by AXI4-Lite, frames from and to memory by AXI4."""
