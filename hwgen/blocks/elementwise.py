"""Blocks that work beat by beat: table lookup, addition, and what joins two streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory

from hwgen.blocks.arithmetic import adder_tree, delayed, levels, signed_width
from hwgen.blocks.base import (
    BlockConfig,
    Resources,
    Schedule,
    StreamType,
    block_shape,
    counter,
    in_order,
    memory_style,
    pack_rows,
)
from hwgen.blocks.queue import QUEUE_LATENCY, Queue, Skid, queue_resources
from hwgen.blocks.requantise import RoundShift
from hwgen.ir import Add, Mul, Table
from hwgen.ir.types import TensorType

__all__ = [
    "Adder",
    "AdderConfig",
    "BeatConfig",
    "Pair",
    "PairConfig",
    "ReadOnlyMemory",
    "TableLookup",
    "TableLookupConfig",
    "most_claims",
    "valid_chain",
]

PIECE_BITS = 8
"""Most bits of a code that an adder looks up in one table."""


def most_claims(cycles: int, burst: int, period: int) -> int:
    """Most claims within some cycles, where the first ``burst`` of each ``period`` cycles claim."""
    return cycles // period * burst + min(cycles % period, burst)


def valid_chain(m: Module, valid: Value, cycles: int) -> list[Value]:
    """A flag, and the flag 1, 2, … ``cycles`` cycles later."""
    chain = [valid]
    for k in range(cycles):
        later = Signal(name=f"valid_{k}")
        m.d.sync += later.eq(chain[-1])
        chain.append(later)
    return chain


@dataclass(frozen=True)
class ReadOnlyMemory:
    """A table in LUTs or in block memory, whichever is cheaper.

    A block memory is slow to show a word, so it goes into a register and nowhere else; of several
    one after the other each has that register, and the choice comes after it, four at a time.

    Parameters
    ----------
    width : :class:`int`
        Bits of a word.
    depth : :class:`int`
        Words.
    """

    width: int
    depth: int

    @property
    def style(self) -> str:
        """``"distributed"`` or ``"block"``."""
        return memory_style(self.width, self.depth)

    @property
    def part_depth(self) -> int:
        """Words of each of several block memories, a power of two."""
        return block_shape(self.width, self.depth)[1]

    @property
    def parts(self) -> int:
        """Memories one after the other."""
        return -(-self.depth // self.part_depth) if self.style == "block" else 1

    @property
    def latency(self) -> int:
        """Cycles from address to word."""
        return 1 if self.style == "distributed" else 2 + -(-levels(self.parts) // 2)

    def resources(self) -> Resources:
        """What it takes."""
        if self.style == "distributed":
            return Resources(lut=self.width * max(1, -(-self.depth // 64)), ff=self.width)
        choices = self.width * (self.parts - 1)
        return Resources.memory(self.width, self.depth) + Resources(
            lut=choices, ff=self.width * self.parts + choices // 3
        )

    def read(self, m: Module, name: str, address: Value, rows: Sequence[int]) -> Value:
        """The word at an address, ``latency`` cycles later."""
        if self.style == "distributed":
            return _words(m, name, address, rows, self.width, self.style)
        low = self.part_depth.bit_length() - 1
        words: list[Value] = []
        for k in range(self.parts):
            part = rows[k << low : (k + 1) << low]
            word = _words(m, f"{name}_{k}", address[:low], part, self.width, self.style)
            words.append(delayed(m, word, 1, f"{name}_{k}"))
        choice, level = address[low:], 0
        while len(words) > 1:
            choice = delayed(m, choice, 1 if level else 2, f"{name}_choice_{level}")
            chosen: list[Value] = []
            for k in range(0, len(words), 4):
                group = words[k : k + 4]
                word = Signal(self.width, name=f"{name}_{level}_{k // 4}", reset_less=True)
                with m.Switch(choice[:2]):
                    for j, candidate in enumerate(group):
                        with m.Case(j) if j < len(group) - 1 else m.Default():
                            m.d.sync += word.eq(candidate)
                chosen.append(word)
            words, choice, level = chosen, choice[2:], level + 1
        return words[0]


def _words(
    m: Module, name: str, address: Value, rows: Sequence[int], width: int, style: str
) -> Value:
    """Word of one read-only memory, a cycle later."""
    m.submodules[name] = memory = Memory(
        shape=width, depth=max(len(rows), 2), init=rows, attrs={"rom_style": style}
    )
    read = memory.read_port()
    m.d.comb += read.addr.eq(address)
    return read.data


@dataclass(frozen=True, kw_only=True)
class BeatConfig(BlockConfig):
    """What beat-by-beat blocks share: a fixed number of cycles from a beat to what it pushes.

    Parameters
    ----------
    lanes : :class:`int`
        Elements a beat.
    """

    lanes: int = 1

    @property
    def push_latency(self) -> int:
        """Cycles from accepting a beat to pushing its result."""
        raise NotImplementedError

    @property
    def claim_cycles(self) -> int:
        """Cycles in which a place is taken, if its beat is fetched as soon as it is visible."""
        return self.push_latency + QUEUE_LATENCY + 1

    @property
    def least_depths(self) -> tuple[int, ...]:
        return (self.claim_cycles,)

    def claiming(self, beats: np.ndarray) -> np.ndarray:
        """Those of the input beats (of whole frames) that push an output beat; default all."""
        return beats

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        accept = in_order(arrivals[0])
        claims = self.claiming(accept)
        return Schedule((accept,), (claims + self.push_latency + QUEUE_LATENCY,), (claims,))


@dataclass(frozen=True, kw_only=True)
class TableLookupConfig(BeatConfig):
    """A table lookup of every element.

    Parameters
    ----------
    op : :class:`hwgen.ir.Table`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Elements a beat, each with a table of its own; where the function depends on the channel,
        with those of all its channels.
    """

    op: Table
    tensor: TensorType

    def __post_init__(self) -> None:
        _ = self.inputs, self.outputs

    @cached_property
    def inputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.tensor, self.lanes),)

    @cached_property
    def outputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.op.infer(self.tensor)[0], self.lanes),)

    @property
    def tables(self) -> int:
        """Functions of a lane."""
        return self.inputs[0].beats_per_pixel if self.op.by_channel else 1

    @property
    def memory(self) -> ReadOnlyMemory:
        """The memory of a lane."""
        return ReadOnlyMemory(self.op.output.bits, self.tables << self.tensor.bits)

    def rows(self, lane: int) -> list[int]:
        """Contents of a lane's memory; the address is the code, then the beat of the pixel."""
        # The code's two's complement, taken as unsigned, counts 0..max, then min..-1.
        values = np.roll(self.op.values, -(1 << (self.tensor.bits - 1)), axis=-1)
        own = values[lane :: self.lanes] if self.op.by_channel else values
        return pack_rows(own.reshape(-1, 1), self.op.output.bits)

    @property
    def push_latency(self) -> int:
        return self.memory.latency

    def resources(self) -> Resources:
        total = queue_resources(self.outputs[0].width, self.queue_depths[0])
        for _ in range(self.lanes):
            total += self.memory.resources()
        return total

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.op.evaluate(frames, (self.tensor,))

    def create(self) -> TableLookup:
        return TableLookup(self)


class TableLookup(wiring.Component):
    """Looks up every element of a stream.

    Parameters
    ----------
    config : :class:`TableLookupConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(input bits), lanes)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(output bits), lanes)))`

    Timing
    ------
    A beat accepted in cycle t is visible in t + 4, or in t + 3 + ``config.memory.latency`` where
    tables are in block memory; one beat a cycle.
    """

    def __init__(self, config: TableLookupConfig) -> None:
        self.config = config
        super().__init__(config.signature)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.queue = queue = Queue(config.outputs[0].payload, config.queue_depths[0])
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        fire = Signal()
        m.d.comb += [
            self.i.ready.eq(queue.room),
            fire.eq(self.i.valid & self.i.ready),
            queue.reserve.eq(fire),
            queue.i.valid.eq(valid_chain(m, fire, config.push_latency)[-1]),
        ]
        table = counter(config.tables, name="table")
        if config.tables > 1:
            with m.If(fire):
                m.d.sync += table.eq(Mux(table == config.tables - 1, 0, table + 1))
        for lane in range(config.lanes):
            code = self.i.p[lane]
            address = Cat(code, table) if config.tables > 1 else code
            word = config.memory.read(m, f"table_{lane}", address, config.rows(lane))
            m.d.comb += queue.i.p[lane].eq(word)
        return m


@dataclass(frozen=True, kw_only=True)
class PairConfig(BeatConfig):
    """What blocks share that take two streams of one shape beat by beat.

    Parameters
    ----------
    op : the op
    tensors : pair of :class:`TensorType`
        Types of the inputs.
    lanes : :class:`int`
        Elements a beat.
    """

    op: Add | Mul
    tensors: tuple[TensorType, TensorType]

    def __post_init__(self) -> None:
        _ = self.inputs, self.outputs

    @cached_property
    def inputs(self) -> tuple[StreamType, ...]:
        return tuple(StreamType(tensor, self.lanes) for tensor in self.tensors)

    @cached_property
    def outputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.op.infer(*self.tensors)[0], self.lanes),)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        arrivals = [in_order(times) for times in arrivals]
        join = in_order(np.maximum.reduce(arrivals) + 1)
        # A skid buffer has two places.
        free = np.append(np.full(2, -1), join[:-2]) + 1
        accepts = tuple(np.maximum(times, free[: len(times)]) for times in arrivals)
        return Schedule(accepts, (join + self.push_latency + QUEUE_LATENCY,), (join,))

    def resources(self) -> Resources:
        """What the buffers and the queue take."""
        total = queue_resources(self.outputs[0].width, self.queue_depths[0])
        for stream in self.inputs:
            total += Resources(lut=stream.width + 4, ff=2 * stream.width + 2)
        return total

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.op.evaluate(frames, self.tensors)


class Pair(wiring.Component):
    """Takes two streams beat by beat; a subclass says what becomes of a pair of beats.

    Parameters
    ----------
    config : :class:`PairConfig`

    Members
    -------
    i_0, i_1 : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(output bits), lanes)))`

    Timing
    ------
    A pair whose second was accepted in cycle t is visible in t + 4 + ``config.push_latency``; one
    pair a cycle.
    """

    def __init__(self, config: PairConfig) -> None:
        self.config = config
        super().__init__(config.signature)

    def results(
        self, m: Module, valid: list[Value], a: list[Value], b: list[Value]
    ) -> list[Value]:
        """Per lane the result, ``config.push_latency`` cycles after the operands.

        ``valid[k]`` says whether there were operands ``k`` cycles before.
        """
        raise NotImplementedError

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.queue = queue = Queue(config.outputs[0].payload, config.queue_depths[0])
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        # Behind buffers, so that no path leads from the one input to the other.
        inputs = []
        for k, port in enumerate((self.i_0, self.i_1)):
            m.submodules[f"skid_{k}"] = skid = Skid(config.inputs[k].payload)
            wiring.connect(m, wiring.flipped(port), skid.i)
            inputs.append(skid.o)
        fire = Signal()
        m.d.comb += [
            fire.eq(inputs[0].valid & inputs[1].valid & queue.room),
            queue.reserve.eq(fire),
            *(i.ready.eq(fire) for i in inputs),
        ]
        valid = valid_chain(m, fire, config.push_latency)
        lanes = range(config.lanes)
        results = self.results(m, valid, *([i.p[lane] for lane in lanes] for i in inputs))
        m.d.comb += queue.i.valid.eq(valid[-1])
        m.d.comb += [p.eq(result) for p, result in zip(queue.i.p, results, strict=True)]
        return m


@dataclass(frozen=True, kw_only=True)
class AdderConfig(PairConfig):
    """A sum of two tensors, each with its own scale.

    The products with the constant multipliers are tables, so no DSP is spent.  Codes of more than
    eight bits are cut in two, with a table for each half (distributed arithmetic: Croisier et
    al., US patent 3,777,130, 1973): two tables of 256 words and an adder, not one of 65,536.

    Parameters
    ----------
    op : :class:`hwgen.ir.Add`
    tensors : pair of :class:`TensorType`
        Types of the inputs.
    lanes : :class:`int`
        Elements a beat.
    """

    op: Add

    @cached_property
    def pieces(self) -> list[tuple[int, slice, np.ndarray]]:
        """What is summed: the input, bits of its code, and what each of their values adds."""
        pieces = []
        for k, (tensor, multiplier) in enumerate(
            zip(self.tensors, self.op.multipliers, strict=True)
        ):
            count = -(-tensor.bits // PIECE_BITS)
            for j in range(count):
                low, high = (tensor.bits * n // count for n in (j, j + 1))
                codes = np.arange(1 << (high - low), dtype=np.int64) << low
                if high == tensor.bits:
                    # The highest bit counts negative; the zero point goes with it.
                    codes -= (codes >> (high - 1) << high) + tensor.zero_point
                pieces.append((k, slice(low, high), multiplier * codes))
        return pieces

    @cached_property
    def product_bits(self) -> int:
        """Bits of a term of the sum."""
        low = min(int(values.min()) for _, _, values in self.pieces)
        return signed_width(low, max(int(values.max()) for _, _, values in self.pieces))

    @property
    def sum_bits(self) -> int:
        """Bits of the sum."""
        return self.product_bits + levels(len(self.pieces))

    @property
    def push_latency(self) -> int:
        return 1 + levels(len(self.pieces)) + RoundShift.latency

    def resources(self) -> Resources:
        bits = self.product_bits
        lane = Resources(lut=(len(self.pieces) + 1) * bits + 20, ff=(len(self.pieces) + 3) * bits)
        for _, _, values in self.pieces:
            lane += Resources(lut=bits * max(1, len(values) // 64), ff=bits)
        total = super().resources()
        for _ in range(self.lanes):
            total += lane
        return total

    def create(self) -> Adder:
        return Adder(self)


class Adder(Pair):
    """Adds two streams, element by element.

    Parameters
    ----------
    config : :class:`AdderConfig`

    Members
    -------
    i_0, i_1 : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(output bits), lanes)))`

    Timing
    ------
    A pair whose second was accepted in cycle t is visible in t + 11, in t + 12 where an input has
    more than eight bits; one pair a cycle.
    """

    config: AdderConfig

    def results(
        self, m: Module, valid: list[Value], a: list[Value], b: list[Value]
    ) -> list[Value]:
        config, results = self.config, []
        bits, shift = config.product_bits, config.op.shift
        for lane, codes in enumerate(zip(a, b, strict=True)):
            terms: list[tuple[Value, Value | None]] = []
            for j, (k, piece, values) in enumerate(config.pieces):
                word = _words(
                    m, f"product_{lane}_{j}", codes[k][piece],
                    pack_rows(values[:, None], bits), bits, "distributed",
                )
                terms.append((word.as_signed(), None))
            total, _ = adder_tree(m, terms, bits, f"total_{lane}")
            m.submodules[f"round_{lane}"] = rounder = RoundShift(
                config.sum_bits, (shift, shift), config.op.output
            )
            m.d.comb += rounder.i.eq(total)
            results.append(rounder.o)
        return results
