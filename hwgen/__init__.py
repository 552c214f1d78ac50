"""hwgen: from a trained neural network to a streaming, layer-pipelined FPGA accelerator."""

__version__ = "0.1.0"
