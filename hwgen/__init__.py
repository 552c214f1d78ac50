"""hwgen: from a trained neural network to a streaming, layer-pipelined FPGA accelerator."""

from importlib import metadata

__all__ = ["__version__"]

try:
    __version__ = metadata.version("hwgen")
except metadata.PackageNotFoundError:  # a checkout that was not installed
    __version__ = "unknown"
