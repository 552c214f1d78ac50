"""A memory of whole frames of tokens, of which several side by side are read at once.

Two frames lie in it: one is read while the next one is written.
"""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.device.arithmetic import add_carry, counter, levels
from hwgen.device.cost import Area, Part, logic
from hwgen.errors import HwgenError
from hwgen.parts.component import Configured
from hwgen.parts.memory import BufferMemory, buffer_area, buffer_registers
from hwgen.parts.stream import StreamType

__all__ = ["FRAMES", "TokenBanks", "TokenBanksConfig"]

FRAMES = 2
"""Frames in the memory."""


@dataclass(frozen=True, kw_only=True)
class TokenBanksConfig(Part):
    """Shape of the memory.

    Parameters
    ----------
    stream : :class:`StreamType`
        Tokens as they come; a beat is a word.
    side : :class:`int`
        Tokens that are read at once: token ``j`` of a frame lies in bank ``j % side``.
    style : :class:`str`
        Style of the banks; see :class:`BufferMemory`.

    Raises
    ------
    :exc:`HwgenError`
        If ``side`` is not between 1 and the tokens of a frame.
    """

    stream: StreamType
    side: int
    style: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.side <= self.stream.tensor.pixels:
            raise HwgenError(f"Tokens side by side must be between 1 and "
                             f"{self.stream.tensor.pixels}, not {self.side!r}")

    @property
    def token_words(self) -> int:
        """Words of a token."""
        return self.stream.beats_per_site

    @property
    def rows(self) -> int:
        """Tokens of a frame in a bank."""
        return -(-self.stream.tensor.pixels // self.side)

    @property
    def frame_words(self) -> int:
        """Words of a frame in a bank."""
        return self.rows * self.token_words

    @property
    def depth(self) -> int:
        """Words of a bank."""
        return FRAMES * self.frame_words

    def area(self) -> Area:
        """What it takes."""
        width, beats = self.stream.width, self.stream.beats
        registers = buffer_registers(width, self.depth, self.style)
        counters = (levels(self.token_words) + levels(self.side) + 2 * levels(self.depth)
                    + (FRAMES * beats).bit_length() + levels(beats) + 2)
        return buffer_area(width, self.depth, self.style, self.side) + logic(
            "attention", counter=counters, ff_register=self.side * registers)

    @property
    def signature(self) -> wiring.Signature:
        """Signature of the component."""
        return wiring.Signature({
            "i": In(self.stream.signature), "full": Out(1), "begin": In(1), "free": In(1),
            "address": In(range(max(self.depth, 2))), "words": Out(self.side * self.stream.width),
        })

    def create(self) -> TokenBanks:
        return TokenBanks(self)


class TokenBanks(Configured[TokenBanksConfig]):
    """Writes tokens bank by bank, and reads one of each bank at once.

    Parameters
    ----------
    config : :class:`TokenBanksConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
    full : :py:`Out(1)`
        A frame of which no reading has begun is complete.
    begin : :py:`In(1)`
        Reading of that frame begins, so that ``full`` is of the one after it.
    free : :py:`In(1)`
        The oldest frame is not read any more.
    address : :py:`In(range(depth))`
        Of a word in each bank: ``frame * frame_words + row * token_words + word``, with the frame
        0 or 1 in turns.
    words : :py:`Out(side * width)`
        Two cycles after the address.

    Timing
    ------
    One beat per cycle.  A frame whose last beat is accepted in cycle t is full in t + 1; a beat of
    the frame that takes the place of one that is free in cycle t is accepted from t + 1 on.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        side, words, beats = config.side, config.token_words, config.stream.beats
        left = Signal(signed((FRAMES * beats).bit_length() + 1), init=FRAMES * beats - 1)
        frames = Signal(range(FRAMES + 1))
        beat, bank = counter(beats, name="beat"), counter(side, name="bank")
        word, row = counter(words, name="word"), counter(config.depth, name="row")
        take, last, token_end = Signal(), Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(~left[-1]), take.eq(self.i.valid & self.i.ready),
            last.eq(take & (beat == beats - 1)), token_end.eq(word == words - 1),
            self.full.eq(frames != 0),
        ]
        m.d.sync += [
            left.eq(add_carry(left, Mux(self.free, beats - 1, -1), ~take)),
            frames.eq(frames + last - self.begin),
        ]
        # Where the words of the tokens begin that are being written, and which word it is.
        write_address = Signal.like(row)
        m.d.comb += write_address.eq(row + word)
        with m.If(take):
            m.d.sync += [
                beat.eq(Mux(last, 0, beat + 1)), word.eq(Mux(token_end, 0, word + 1)),
            ]
            with m.If(token_end):
                m.d.sync += bank.eq(Mux(last | (bank == side - 1), 0, bank + 1))
                with m.If(last | (bank == side - 1)):
                    m.d.sync += row.eq(Mux(row == config.depth - words, 0, row + words))
        read = []
        for k in range(side):
            m.submodules[f"bank_{k}"] = memory = BufferMemory(
                config.stream.width, config.depth, config.style)
            m.d.comb += [
                memory.write_en.eq(take & (bank == k)), memory.write_addr.eq(write_address),
                memory.write_data.eq(self.i.p.as_value()), memory.read_en.eq(1),
                memory.load.eq(1), memory.read_addr.eq(self.address),
            ]
            read.append(memory.read_data)
        m.d.comb += self.words.eq(Cat(read))
        return m
