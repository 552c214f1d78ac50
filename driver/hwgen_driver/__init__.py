"""Runs accelerators that hwgen built.  It needs numpy alone.

    from hwgen_driver import Accelerator, Simulated

    with Accelerator("build/resnet8-zcu104", Simulated(program)) as accelerator:
        scores = accelerator.run(images)
"""

from .accelerator import Accelerator
from .errors import AcceleratorError, DriverError, StuckError, WrongBitstreamError
from .manifest import Manifest, Port
from .pynq import Pynq
from .simulated import Simulated
from .transport import Buffer, Transport
from .uio import Uio
from .xrt import Xrt

__all__ = [
    "Accelerator", "AcceleratorError", "Buffer", "DriverError", "Manifest", "Port", "Pynq",
    "Simulated", "StuckError", "Transport", "Uio", "WrongBitstreamError", "Xrt",
]
