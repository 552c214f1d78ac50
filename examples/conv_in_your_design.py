"""One block in a design of your own: a camera's pixels, a convolution, the strongest edge a row.

Everything but ``FoldedConv`` is somebody else's Amaranth: a noise gate in front of it, a search
for the peak of each row behind it.  The design is simulated on a crop of a photograph, compared
with numpy, and written as Verilog.

    python examples/conv_in_your_design.py [OUTDIR]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from sklearn.datasets import load_sample_image

from hwgen.blocks.conv import FoldedConvConfig
from hwgen.emit.verilog import emit_component
from hwgen.ir import Conv, Quantisation, Requantise, TensorType
from hwgen.sim.amaranth import run_streams

HEIGHT, WIDTH = 40, 64
FLOOR = 24
"""Pixels darker than this count as black."""
SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])


def edge_detector(multiplier: str = "dsp48e2") -> FoldedConvConfig:
    """Two output channels, the gradients across and down, divided by 8; a pixel a cycle.

    ``multiplier`` is that of the device, see :data:`hwgen.device.multiplier.MULTIPLIERS`.

    Streams are always signed: the camera's 0..255 travels as -128..127, so black is -128, and
    that is what the padding reads.
    """
    pixels = Quantisation(scale=1.0, zero_point=-128)
    weight = np.stack([SOBEL, SOBEL.T])[..., None]  # (Cout, *kernel, Cin)
    config = FoldedConvConfig(
        op=Conv(
            weight=weight,
            bias=-pixels.zero_point * weight.sum(axis=(1, 2, 3)),
            requantise=Requantise.from_scale([1 / 8, 1 / 8]),
            output=Quantisation(scale=8.0),
            pads=((1, 1), (1, 1)),
        ),
        tensor=TensorType((HEIGHT, WIDTH, 1), pixels),
        tap_lanes=9,  # all taps in parallel,
        pe=2,  # both output channels in parallel (they share their multipliers),
        lanes_out=2,  # and in one beat of the output stream.
        multiplier=multiplier,
    )
    # The camera sends a pixel every cycle: the buffer must be large enough that it never waits.
    return config.at_full_speed()


class RowPeaks(wiring.Component):
    """Column and strength of the strongest edge of each row.

    Parameters
    ----------
    multiplier : :class:`str`
        That of the device: ``dsp48e2``, ``dsp48e1``, ``mult18`` (ECP5) or ``fabric``.

    Members
    -------
    camera : :py:`In(stream.Signature(8))`
        Grey pixels, row by row.
    peak : :py:`Out(stream.Signature(StructLayout({"strength": 8, "column": ...})))`
        One a row.
    """

    def __init__(self, multiplier: str = "dsp48e2") -> None:
        self.multiplier = multiplier
        peak = data.StructLayout({"strength": unsigned(8), "column": range(WIDTH)})
        super().__init__({
            "camera": In(stream.Signature(unsigned(8))),
            "peak": Out(stream.Signature(peak)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.edges = edges = edge_detector(self.multiplier).create()

        # Gate the noise; flipping the top bit takes 0..255 to -128..127.
        pixel = Mux(self.camera.payload < FLOOR, 0, self.camera.payload)
        m.d.comb += [
            edges.i.payload[0].eq((pixel ^ 0x80).as_signed()),
            edges.i.valid.eq(self.camera.valid),
            self.camera.ready.eq(edges.i.ready),
        ]

        # A beat of the output is an array of lanes: here both gradients of a pixel.
        across, down = edges.o.payload
        total = Signal(9)
        strength = Signal(8)
        column, best = Signal(range(WIDTH)), Signal.like(self.peak.payload)
        leader = Signal.like(best)
        first, last = column == 0, column == WIDTH - 1
        m.d.comb += [
            total.eq(abs(across) + abs(down)),
            strength.eq(Mux(total > 255, 255, total)),
            leader.eq(best),
            # The row's last pixel waits until the row before has been taken.
            edges.o.ready.eq(~(last & self.peak.valid & ~self.peak.ready)),
        ]
        with m.If(first | (strength > best.strength)):
            m.d.comb += [leader.strength.eq(strength), leader.column.eq(column)]
        with m.If(self.peak.ready):
            m.d.sync += self.peak.valid.eq(0)
        with m.If(edges.o.valid & edges.o.ready):
            m.d.sync += [column.eq(Mux(last, 0, column + 1)), best.eq(leader)]
            with m.If(last):
                m.d.sync += [self.peak.payload.eq(leader), self.peak.valid.eq(1)]
        return m


def reference(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same in numpy: strength and column of each row's strongest edge."""
    padded = np.pad(np.where(picture < FLOOR, 0, picture).astype(int), 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    gradients = [(windows * kernel).sum(axis=(2, 3)) for kernel in (SOBEL, SOBEL.T)]
    strength = sum(abs(np.clip(np.rint(g / 8), -128, 127)) for g in gradients)
    strength = np.minimum(strength, 255).astype(int)
    return strength.max(axis=1), strength.argmax(axis=1)


def main(directory: Path) -> None:
    picture = load_sample_image("china.jpg").mean(axis=2)[60:300:6, 200:584:6].astype(np.uint8)
    strength, column = reference(picture)
    config = edge_detector()
    print(f"edge detector: {config.interval} cycles a frame, first result after {config.latency}, "
          f"holds {config.capacity} pixels")

    # The test bench pauses the camera and the receiver at random, and checks the protocol.
    for stall in (0.0, 0.3):
        run = run_streams(
            RowPeaks(), [("camera", picture.ravel().tolist())], [("peak", HEIGHT)], stall=stall
        )
        seen = np.array(run.outputs["peak"])
        assert (seen & 0xFF == strength).all()
        assert (seen >> 8 == column).all()
        cycles = run.times["peak"][-1] + 1
        print(f"simulated {cycles} cycles with stalls {stall:.0%}: "
              f"{HEIGHT} peaks as in numpy, the strongest {strength.max()}")

    # The whole design: its modules, those of the blocks, images of the tables.
    rtl = emit_component(RowPeaks(), top="row_peaks")
    rtl.write(directory)
    print(f"wrote {len(rtl.files)} files to {directory}: read {', '.join(rtl.verilog)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/conv_in_your_design"))
