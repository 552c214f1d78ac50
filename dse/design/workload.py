"""A convolution that is to be folded, with all that its foldings depend on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from hwgen.device.arithmetic import signed_width
from hwgen.device.multiplier import MULTIPLIERS, Packing
from hwgen.device.storage import FAMILY
from hwgen.dse.design.streams import is_depthwise
from hwgen.ir import Convolution, TensorType

__all__ = ["Workload"]


@dataclass(frozen=True, eq=False)
class Workload:
    """A convolution between two streams, on a device.

    Members
    -------
    op, tensor : the convolution, and the type of its input
    lanes_in, lanes_out, pixels_in, pixels_out : channels and pixels a beat of the streams
    multiplier : the board's
    family : the device's
    ultra : whether the device has UltraRAM
    sites : pixels that the window's buffer will hold; 0: not known yet
    """

    op: Convolution
    tensor: TensorType
    lanes_in: int
    lanes_out: int
    pixels_in: int = 1
    pixels_out: int = 1
    multiplier: str = "dsp48e2"
    family: str = FAMILY
    ultra: bool = True
    sites: int = 0

    @property
    def multipliers(self) -> tuple[str, str]:
        """What can multiply: the board's multipliers, and LUTs."""
        return self.multiplier, "fabric"

    @property
    def cin(self) -> int:
        """Input channels of a group."""
        return self.op.weight.shape[-1]

    @property
    def cout(self) -> int:
        """Output channels of a group."""
        return self.op.cout // self.op.groups

    @cached_property
    def banks(self) -> int:
        """Banks of the window's buffer: as many pixels as both streams have in common."""
        if max(self.pixels_in, self.pixels_out) == 1:
            return 1
        return math.lcm(self.pixels_in, self.pixels_out * self.op.window.stride[-1])

    @cached_property
    def windows(self) -> int:
        """Windows a frame, of which each is as many side by side as there are pixels a beat."""
        return self.op.infer(self.tensor)[0].pixels // self.pixels_out

    @cached_property
    def bank_sites(self) -> int:
        """Pixels that a bank of the window's buffer holds.

        Until it is known, a guess: the window's rows, and the pixels that are coming in.
        """
        sites = self.sites
        if not sites:
            window = self.op.window
            outer = window.extent[0] + window.stride[0] - 1 if window.taps > 1 else 0
            row = math.prod(self.tensor.spatial[1:])
            sites = min(self.tensor.pixels, outer * row + 4 * self.banks)
        return -(-sites // self.banks)

    @cached_property
    def accumulator_bits(self) -> int:
        """Bits of a sum."""
        return signed_width(*self.op.accumulator_range(self.tensor))

    def shared(self, multiplier: str) -> str:
        """What the products in a multiplier share: ``"activation"`` or ``"weight"``."""
        pairs = self.pixels_out > 1 and is_depthwise(self.op) and self.tensor.bits <= 8
        return "weight" if pairs and MULTIPLIERS[multiplier].dsp else "activation"

    def packing(self, multiplier: str) -> Packing:
        """How products share a multiplier."""
        bits, op = self.tensor.bits, self.op
        if self.shared(multiplier) == "weight":
            return Packing.densest(multiplier, op.weight_bits, bits, 1 << (bits - 1))
        return Packing.densest(multiplier, bits, op.weight_bits, op.weight_limit)
