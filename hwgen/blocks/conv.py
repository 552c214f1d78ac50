"""Folded convolution: sliding window, multiply-accumulate columns, shared requantisers.

For each output pixel, the window is read once for every fold of output channels.  The results of a
fold are first serialised and then requantised, so a few requantisers serve all columns, and the
lanes of the output do not depend on ``pe``.  ``pe`` need not divide the output channels: the last
fold may compute outputs that are dropped.

Several adjacent output pixels can be computed together; they share the weights that are read.  If
each activation is multiplied by one weight only (depthwise layers), they share the multipliers,
too.

If there are too many weights, a tile of output rows is computed fold by fold, so that each fold is
needed only once per tile.  Until then it can stay in off-chip memory
(:mod:`hwgen.offchip.weight_stream`).  The results are reordered afterwards
(:mod:`hwgen.parts.reorder`).

A transposed convolution sends each window once for every phase, and the phase selects the weights
and the biases (Shi et al., "Is the deconvolution layer the same as a convolutional layer?", 2016).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import ClassVar

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring

from hwgen.blocks.base import OffChip, Schedule
from hwgen.blocks.conv_base import ConvolutionConfig, array_weights, lanes_taken, serialise
from hwgen.blocks.output import fold_beats, fold_queue
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.device.arithmetic import counter, delayed, levels
from hwgen.device.cost import Area, logic, total
from hwgen.device.multiplier import Packing
from hwgen.errors import HwgenError
from hwgen.ir import Convolution, Gemm
from hwgen.offchip.bus import BURST, MEMORY_LATENCY, AxiConfig
from hwgen.offchip.memory_map import PORT_SHARE
from hwgen.offchip.weight_stream import WeightStreamConfig
from hwgen.parts.component import Configured
from hwgen.parts.mac import MacArray, MacArrayConfig
from hwgen.parts.queue import QUEUE_LATENCY, Queue, queue_depth
from hwgen.parts.reorder import ReorderQueue, TileOrder, reorder_area
from hwgen.parts.requantise import Requantiser, RequantiserConfig
from hwgen.parts.stream import StreamType, pack_rows
from hwgen.parts.weights import WeightMemoryConfig
from hwgen.parts.window import READ_LATENCY, SlidingWindow, SlidingWindowConfig

__all__ = ["FoldedConv", "FoldedConvConfig"]


@dataclass(frozen=True, kw_only=True)
class FoldedConvConfig(ConvolutionConfig):
    """A convolution and its folding.

    Parameters
    ----------
    group_lanes : :class:`int`
        Groups in parallel (depthwise: channels); if more than 1, whole groups are computed.
    pixels_in, pixels_out : :class:`int`
        Pixels per beat of the streams; those of an output beat are computed together.
    shared : :class:`str`
        What the products in a multiplier share: see :class:`hwgen.parts.mac.MacArrayConfig`.
    tile : :class:`int`
        Rows of windows (along the outermost dimension; divides their number) that are computed
        fold by fold, with weights from off-chip memory; 0: site by site, with all weights on chip.
    resident : :class:`int`
        Folds of weights that stay on chip, if ``tile`` is not 0.
    fold_cycles : :class:`int`
        Least number of cycles per fold: a pace at which weights stream evenly.
    axi : :class:`AxiConfig`
    burst, memory_latency : :class:`int`
        Most words in a request for weights, and most cycles that it takes.

    Raises
    ------
    :exc:`HwgenError`
        If the folding does not fit the op.
    """

    large: ClassVar[bool] = True

    group_lanes: int = 1
    pixels_in: int = 1
    pixels_out: int = 1
    shared: str = "activation"
    tile: int = 0
    resident: int = 0
    fold_cycles: int = 0
    axi: AxiConfig = field(default=AxiConfig())
    burst: int = BURST
    memory_latency: int = MEMORY_LATENCY

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tile and self.group_folds > 1:
            raise HwgenError(
                f"Tiles take all groups in parallel, group lanes {self.op.groups}, "
                f"not {self.group_lanes!r}"
            )
        if self.resident and not self.tile:
            raise HwgenError(f"Resident must be 0 without tiles, not {self.resident!r}")
        _ = self.window, self.weight_stream

    def _check_folding(self) -> None:
        if not 1 <= self.group_lanes <= self.op.groups:
            raise HwgenError(
                f"Group lanes must be between 1 and {self.op.groups}, not {self.group_lanes!r}"
            )
        cin, cout = self.group_channels
        if self.group_lanes > 1 and (self.channel_lanes, self.pe) != (cin, cout):
            raise HwgenError(
                f"Groups in parallel are taken whole: channel lanes {cin} and pe {cout}, "
                f"not {self.channel_lanes!r} and {self.pe!r}"
            )

    @property
    def sharing(self) -> int:
        return self.pixels_out if self.shared == "weight" else self.pe

    @property
    def phases(self) -> int:
        """Number of sets of weights and biases."""
        return math.prod(self.op.repeat)

    @property
    def simd(self) -> int:
        """Number of products that a column sums in each cycle."""
        return self.channel_lanes * self.tap_lanes

    @property
    def group_folds(self) -> int:
        """Number of runs of groups, which are computed one after the other."""
        return math.ceil(self.op.groups / self.group_lanes)

    @cached_property
    def fold_results(self) -> np.ndarray:
        """Number of results of each fold of an output pixel, ``(group_folds * channel_folds,)``."""
        if self.group_lanes == 1:
            return super().fold_results
        left = self.op.groups - np.arange(self.group_folds) * self.group_lanes
        return np.minimum(left, self.group_lanes) * self.group_channels[1]

    @cached_property
    def window(self) -> SlidingWindowConfig:
        """The sliding window in front of the columns."""
        cin, _ = self.group_channels
        return SlidingWindowConfig(
            input=self.inputs[0],
            window=self.op.window,
            repeat=self.op.repeat,
            crop=self.op.crop,
            fill=self.tensor.zero_point,
            word_lanes=self.group_lanes * self.channel_lanes,
            segment=self.tensor.channels if self.group_lanes > 1 else cin,
            groups=self.group_folds,
            tap_lanes=self.tap_lanes,
            columns=self.pixels_out,
            folds=1 if self.tile else self.channel_folds,
            tile=self.tile or 1,
            passes=self.channel_folds if self.tile else 1,
            fold_cycles=max(self.fold_cycles, self.fold_beats),
            capacity=self.capacity,
            style=self.window_style,
        )

    @cached_property
    def acc_range(self) -> tuple[int, int]:
        """Worst-case range of the accumulators, with and without bias."""
        return self.op.accumulator_range(self.tensor)

    @cached_property
    def requantiser(self) -> RequantiserConfig:
        """The requantisers behind the columns."""
        return RequantiserConfig(
            requantise=self.op.requantise, bias=self.op.biases(self.tensor),
            output=self.op.output, acc_range=self.acc_range, lanes=self.lanes_out,
            pixels=self.pixels_out, multiplier=self.requantiser_multiplier or self.multiplier,
            folded=self.tile > 0, lookup=self.lookup,
        )

    @cached_property
    def array(self) -> MacArrayConfig:
        """The multipliers."""
        bits = self.tensor.bits
        if self.shared == "weight":
            key, outputs = (self.op.weight_bits, bits, 1 << (bits - 1)), self.pixels_out
        else:
            key, outputs = (bits, self.op.weight_bits, self.op.weight_limit), self.pe
        products = self.products or Packing.densest(self.multiplier, *key).products
        return MacArrayConfig(
            simd=self.simd, pe=self.pe, groups=self.group_lanes, pixels=self.pixels_out,
            shared=self.shared, packing=Packing(self.multiplier, min(products, outputs), *key),
            acc_bits=self.requantiser.acc_bits,
        )

    @cached_property
    def order(self) -> TileOrder | None:
        """Order in which results come, if they are computed tile by tile."""
        if not self.tile:
            return None
        tiles = self.window.course.output[0] // (
            self.tile * self.window.course.repeat[0] * self.channel_folds
        )
        sites = self.window.windows // self.channel_folds // tiles
        return TileOrder(sites, tuple(self.beats))

    @cached_property
    def weight_stream(self) -> WeightStreamConfig | None:
        """The memory of the weights, if they are streamed."""
        if self.order is None:
            return None
        config = WeightStreamConfig(
            self.array.weight_widths, self.array.skews, self.window_depth, self.channel_folds,
            self.resident, axi=self.axi, burst=self.burst, style=self.weight_style,
        )
        # A fold has the time of all places of the ring but one to come.  It takes the latency of
        # the memory and nearly its own time, because nearly all of the bandwidth may be used.
        cycles = self.order.sites * self.window.fold_cycles
        late = self.memory_latency + READ_LATENCY + config.overhead
        share = max(config.fold_words / cycles, PORT_SHARE)
        return replace(config, ring_places=1 + math.ceil(late / cycles + share))

    @property
    def offchip(self) -> OffChip | None:
        if self.order is None or self.weight_stream is None:
            return None
        tiles = self.outputs[0].beats // self.order.tile_beats
        return OffChip(self.weight_stream.image_bytes, tiles * self.weight_stream.bytes_per_tile,
                       ahead=self.weight_stream.places * self.weight_stream.fold_bytes)

    @property
    def tile_sites(self) -> int:
        return self.order.sites if self.order is not None else 0

    def parts(self) -> dict[str, Area]:
        found = super().parts()
        if self.weight_stream is None:
            return found
        return {**found, "weights": self.weight_stream.area()}

    def image(self) -> bytes:
        return self.weight_stream.image(self.memory_rows) if self.weight_stream else b""

    @property
    def queue_depths(self) -> tuple[int, ...]:
        if self.order is None or not self.depths:
            return super().queue_depths
        return (self.order.whole(self.depths[0]),)

    @cached_property
    def weights(self) -> tuple[WeightMemoryConfig, ...]:
        """Memories of the weights, one for each port of the array, if they are on chip."""
        return tuple(WeightMemoryConfig(width, self.weight_depth, self.weight_style)
                     for width in (() if self.tile else self.array.weight_widths))

    @property
    def weight_latency(self) -> int:
        """Cycles from the address of weights until the weights have been read."""
        if self.weight_stream is not None:
            return self.weight_stream.latency
        return super().weight_latency

    @cached_property
    def memory_rows(self) -> list[list[int]]:
        """Contents of the weight memories."""
        words = self.array.weight_words(self.weight_rows())
        return [pack_rows(part, self.array.w_bits) for part in words]

    @cached_property
    def inputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.tensor, self.lanes_in, self.pixels_in),)

    @cached_property
    def outputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.result, self.lanes_out, self.pixels_out),)

    @property
    def signature(self) -> wiring.Signature:
        if self.weight_stream is not None:
            return wiring.Signature({
                **super().signature.members, "read": wiring.Out(self.axi.read_client),
                "base": wiring.In(self.axi.address_bits), "loaded": wiring.Out(1),
                "waits": wiring.Out(1),
            })
        return super().signature

    @property
    def interval(self) -> int:
        return self.window.interval

    @property
    def result_latency(self) -> int:
        """Cycles from a fold's last beat at the window's output to the push of its first result."""
        return self.weight_latency + self.array.latency + 1 + self.requantiser.latency

    @cached_property
    def least_depths(self) -> tuple[int, ...]:
        claim = self._delay
        if self.order is not None:
            # At full speed, a tile leaves the queue while the next one is computed.
            passes = self.channel_folds * self.order.sites
            tiles = 3 + claim // (passes * self.window.fold_cycles)
            starts = np.arange(tiles * passes) * self.window.fold_cycles
            claims, ready = self.order.times(starts)
            return (self.order.whole(queue_depth(claims, ready + claim)),)
        # A place is claimed when its fold begins and freed when its beat is taken.
        folds = math.ceil((claim + self.fold_beats + 1) / self.window.fold_cycles) + 1
        many = np.tile(self.beats, math.ceil(folds / len(self.beats)) + 1)
        return (int(max(many[k : k + folds].sum() for k in range(len(self.beats)))),)

    @property
    def _delay(self) -> int:
        """Cycles from the start of a fold until its first result is visible."""
        return READ_LATENCY + self.window.steps - 1 + self.result_latency + QUEUE_LATENCY

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        window = self.window.schedule(arrivals[0])
        if self.order is not None:
            claims, ready = self.order.times(window.starts)
            return Schedule((window.accepts,), (ready + self._delay,), (claims,), window.capacity)
        fold = np.repeat(np.arange(len(self.beats)), self.beats) * self.window.fold_cycles
        beat = np.concatenate([np.arange(n) for n in self.beats])
        claims = (window.starts[:, None] + fold).ravel()
        out = (window.starts[:, None] + (fold + beat + self._delay)).ravel()
        return Schedule((window.accepts,), (out,), (claims,), window.capacity)

    def area(self) -> Area:
        results = int(self.fold_results.max())
        counts = sorted({int(n) for n in self.fold_results})
        pixels, late = self.pixels_out, self.weight_latency
        held = self.requantiser.acc_bits * results * pixels
        beats = (results // self.lanes_out).bit_length()
        flags = late + self.array.latency
        out = self.window.area(None) + self.requantiser.area()
        out += self.queues_area(1 if self.tile else len(counts))
        out += self.array.area(self.window.last_registers + late)
        out += total(memory.area() for memory in self.weights)
        skew, depth = max(self.array.skews), self.weight_depth
        if self.weight_stream is not None and self.order is not None:
            out += self.weight_stream.area() + reorder_area(self.order, self.queue_depths[0])
            depth = self.window_depth
        address = max(depth - 1, 1).bit_length()
        steps = levels(self.window.steps)
        return out + logic(
            "convolution", one=1, ff_flags=3 * flags, ff_beats=flags * beats * (len(counts) > 1),
            ff_register=held + steps + address + beats, ff_address=address * (skew + late),
            lut_held=held * (results > self.lanes_out), lut_steps=steps,
            lut_counter=address, lut_left=beats, ends=len(self.fold_results) * (len(counts) > 1),
            lut_address=address * (skew + late > 2), phases=math.log2(self.phases),
        )

    @property
    def window_depth(self) -> int:
        """Number of rows in the weight memories for a fold of a window, over all phases."""
        return self.window.steps * self.phases

    @property
    def weight_depth(self) -> int:
        """Number of rows in the weight memories: for each beat of a window, one of each phase."""
        return self.group_folds * self.channel_folds * self.window_depth

    def weight_rows(self) -> np.ndarray:
        """Weights by row of the memories: ``(weight_depth, group_lanes * pe, simd)``."""
        cin, cout = self.group_channels
        taps, words = self.window.tap_folds, self.window.words_per_group
        groups, folds = self.group_folds, self.channel_folds
        weight = self.op.kernels.reshape(
            self.phases, self.op.groups, cout, self.op.window.taps, cin
        )
        weight = np.pad(weight, (
            *((0, 0),) * 3,
            (0, taps * self.tap_lanes - self.op.window.taps),
            (0, words * self.channel_lanes - cin),
        ))
        # Outputs beyond the last are dropped.  They have copies of real weights, so that no bit of
        # a memory is constant, and synthesis takes as many blocks as were counted.
        weight = np.pad(weight, (
            (0, 0),
            (0, groups * self.group_lanes - self.op.groups),
            (0, folds * self.pe - cout),
            *((0, 0),) * 2,
        ), mode="wrap")
        weight = weight.reshape(
            self.phases, groups, self.group_lanes, folds, self.pe, taps, self.tap_lanes, words,
            self.channel_lanes,
        ).transpose(1, 3, 5, 7, 0, 2, 4, 6, 8)
        return weight.reshape(self.weight_depth, self.group_lanes * self.pe, self.simd)

    def create(self) -> FoldedConv:
        return FoldedConv(self)


class FoldedConv(Configured[FoldedConvConfig]):
    """Folded convolution with requantisation.

    Parameters
    ----------
    config : :class:`FoldedConvConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes_in * pixels_in)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(bits), lanes_out * pixels_out)))`
    load, next : see :class:`hwgen.parts.weights.WeightMemory`, if weights are loaded
    read, base, loaded, waits : see :class:`hwgen.offchip.memory_map.OffChip`, if weights are off
        chip

    Timing
    ------
    ``group_folds * channel_folds * max(steps, results of a fold / lanes_out)`` cycles for each
    ``pixels_out`` pixels of the output, where
    ``steps = ceil(taps / tap_lanes) * ceil(Cin / channel_lanes)``; see
    :meth:`FoldedConvConfig.schedule`.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.window = window = SlidingWindow(config.window)
        m.submodules.requantiser = requantiser = Requantiser(config.requantiser)
        wiring.connect(m, wiring.flipped(self.i), window.i)

        m.submodules.array = array = MacArray(config.array)
        steps, phases, late = config.window.steps, config.phases, config.weight_latency
        # A window reads all rows of weights on chip, but only those of a fold if they are streamed.
        rows = config.window_depth if config.tile else config.weight_depth
        address, step = counter(rows), counter(steps, name="step")
        fire, step_end = window.o.valid, step == steps - 1
        fold_end = fire & step_end
        if config.tile:
            queue = self._tiles(m, window, array, address, fold_end)
        else:
            queue = self._sites(m, window, array, address)
        wiring.connect(m, requantiser.o, queue.i)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        beats = fold_beats(m, "summed", config.beats, self._last_site(m, "summed", fold_end))
        with m.If(fire):
            m.d.sync += [
                step.eq(Mux(step_end, 0, step + 1)),
                address.eq(Mux(address == rows - 1, 0, address + phases)),
            ]

        # The array: weights are read beside the activations, sums are accumulated over the fold.
        x = data.View(config.window.payload, delayed(m, window.o.p.as_value(), late, "x"))
        members = {"add": 1, "first": 1, "last": 1, "beats": range(config.fold_beats + 1)}
        if phases > 1:
            members["phase"] = range(phases)
        flags = Signal(data.StructLayout(members))
        m.d.comb += [
            flags.add.eq(fire), flags.first.eq(step == 0), flags.last.eq(fold_end),
            flags.beats.eq(beats),
        ]
        if phases > 1:
            m.d.comb += flags.phase.eq(self._begin_phase(m, window, address, rows // phases))
        marks = [flags]
        for k in range(1, late + config.array.latency + 1):
            marks.append(Signal(flags.shape(), name=f"flags_{k}"))
            m.d.sync += marks[k].eq(marks[k - 1])
        m.d.comb += [
            array.add.eq(marks[late + config.array.sum_latency].add),
            array.first.eq(marks[late + config.array.sum_latency].first),
        ]
        pixels, groups = config.pixels_out, config.group_lanes
        for pixel, lane, k in product(range(pixels), range(groups), range(config.simd)):
            tap, channel = divmod(k, config.channel_lanes)
            n = (tap * pixels + pixel) * groups * config.channel_lanes
            m.d.comb += array.x[pixel * groups + lane][k].eq(
                x[n + lane * config.channel_lanes + channel]
            )
        # Serialise the results of a fold, lanes_out per cycle.
        done = marks[-1]
        # The array gives results pixel by pixel; a beat has them channel by channel.
        results = config.group_lanes * config.pe
        in_beats = Cat(array.acc[pixel * results + k].as_unsigned()
                       for k in range(results) for pixel in range(pixels))
        left = serialise(m, config, in_beats, done.last, done.beats, requantiser)
        if phases > 1:
            held_phase = Signal(range(phases), reset_less=True)
            with m.If(done.last):
                m.d.sync += held_phase.eq(done.phase)
            m.d.comb += requantiser.set.eq(held_phase)
        if config.tile:
            end = left == 1
            again = ~self._last_site(m, "sent", end)
            m.d.comb += [requantiser.end.eq(end), requantiser.again.eq(again)]
        return m

    def _sites(
        self, m: Module, window: SlidingWindow, array: MacArray, address: Signal
    ) -> Queue:
        """Add the queue for results that come site by site, with all weights on chip."""
        # A fold starts when the queue has places for its results; the last fold may have fewer.
        queue, room = fold_queue(m, self.config, self.config.beats, window.start)
        loaded = array_weights(m, self, self.config, array, address)
        m.d.comb += window.room.eq(room & loaded)
        return queue

    def _tiles(
        self, m: Module, window: SlidingWindow, array: MacArray, address: Signal, fold_end: Value
    ) -> ReorderQueue:
        """Add the queue for results that come tile by tile, with weights that are streamed."""
        config = self.config
        assert config.order is not None
        assert config.weight_stream is not None
        m.submodules.queue = queue = ReorderQueue(
            config.outputs[0].payload, config.queue_depths[0], config.order, config.queue_styles[0]
        )
        m.submodules.weights = weights = config.weight_stream.create()
        wiring.connect(m, weights.read, wiring.flipped(self.read))
        # The first site takes a fold of weights; the first fold claims places for the results.
        last = self._last_site(m, "starting", window.start)
        first_site, first_fold = Signal(init=1), Signal(init=1)
        fold = counter(config.channel_folds, name="starting_fold")
        with m.If(window.start):
            m.d.sync += first_site.eq(last)
        with m.If(last):
            last_fold = fold == config.channel_folds - 1
            m.d.sync += [fold.eq(Mux(last_fold, 0, fold + 1)), first_fold.eq(last_fold)]
        there = weights.available | ~first_site
        room = queue.room | ~first_fold
        m.d.comb += [
            window.room.eq(room & there),
            queue.reserve.eq(window.start & first_fold),
            weights.take.eq(window.start & first_site),
            weights.row.eq(address),
            weights.next.eq(self._last_site(m, "read", fold_end)),
            weights.base.eq(self.base),
            self.loaded.eq(weights.loaded),
            self.waits.eq(window.ready & room & ~there),
            *(getattr(array, f"w_{k}").eq(getattr(weights, f"w_{k}"))
              for k in range(len(config.array.skews))),
        ]
        return queue

    def _last_site(self, m: Module, name: str, advance: Value) -> Value:
        """``advance`` at the last site of a tile, after which the next fold of weights is used."""
        if self.config.order is None:
            return advance
        sites = self.config.order.sites
        site, last = counter(sites, name=f"{name}_site"), Signal(name=f"{name}_last")
        m.d.comb += last.eq(advance & (site == sites - 1))
        with m.If(advance):
            m.d.sync += site.eq(Mux(last, 0, site + 1))
        return last

    def _begin_phase(
        self, m: Module, window: SlidingWindow, address: Signal, beats: int
    ) -> Signal:
        """Let every window begin with the weights of its phase.

        Rows of the phases are interleaved, so the address then goes up by the number of phases.

        Returns
        -------
        the phase of the beat at ``window.o``
        """
        phases = self.config.phases
        beat, phase = counter(beats, name="beat"), Signal(range(phases))
        fire, end = window.o.valid, beat == beats - 1
        m.d.sync += phase.eq(window.phase)
        with m.If(fire):
            m.d.sync += beat.eq(Mux(end, 0, beat + 1))
        with m.If(Mux(fire, end, beat == 0)):
            m.d.sync += address.eq(window.phase)
        return phase


@carries_out(Convolution, Gemm, own_pixels=True)
def _conv(request: BlockRequest) -> FoldedConvConfig:
    ports, stream = request.ports, request.streams[0]
    config = FoldedConvConfig(
        op=request.op.as_conv(stream.tensor), tensor=stream.tensor, lanes_in=lanes_taken(request),
        lanes_out=request.lanes, pixels_in=stream.pixels, pixels_out=request.pixels,
        lookup=request.table, **request.folded(FoldedConvConfig),
    )
    if not config.tile:
        return config
    return replace(config, axi=ports.axi, burst=ports.burst, memory_latency=ports.memory_latency)
