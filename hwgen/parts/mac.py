"""Arrays of multiply-accumulate columns: a vector of activations times a matrix of weights.

A column computes one or more outputs that share their multipliers
(:mod:`hwgen.device.multiplier`).  Products are summed along cascades of DSPs.  Every second DSP
takes its operands through one more register, so operands are skewed by two cycles for each pair
of DSPs.  Activations are delayed once for all columns; weights are delayed because their memories
are read later.  The sums of the cascades are added in a binary tree of registered adders, with one
adder between registers.  What a field borrows from the one above it is given back through the
carry inputs of these adders, which would otherwise be unused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.device.arithmetic import add_carry, adder_tree, delayed, levels, signed_width
from hwgen.device.cost import Area, Part, counted, logic, total
from hwgen.device.multiplier import MultiplyAdd, Packing
from hwgen.device.platform import add_shared
from hwgen.errors import HwgenError
from hwgen.parts.component import Configured

__all__ = ["MacArray", "MacArrayConfig", "MacColumn", "MacColumnConfig"]

CASCADE = 16
"""Length of the longest cascade: it lets the skew of each activation bit fit a 16-bit shift
register."""


def chain_length(packing: Packing, simd):
    """Number of products, of ``simd``, that are summed before the fields are separated.

    Chains are as long as a field and a cascade allow, and as equal in length as possible.  The
    argument is an integer or an integer array.
    """
    simd = np.asarray(simd)
    most = np.where(simd > packing.field_terms(0), packing.field_terms(packing.guard),
                    packing.field_terms(0))
    if packing.device.sum_bits:
        most = np.minimum(most, CASCADE)
    return -(-simd // -(-simd // most))


@dataclass(frozen=True, kw_only=True)
class MacColumnConfig(Part):
    """Shape of a column.

    Parameters
    ----------
    simd : :class:`int`
        Products summed in each cycle for each output.
    outputs : :class:`int`
        At most ``packing.products``.
    packing : :class:`Packing`
    acc_bits : :class:`int`
        Bits of the accumulators.
    """

    large: ClassVar[bool] = True

    simd: int
    outputs: int
    packing: Packing
    acc_bits: int

    def __post_init__(self) -> None:
        if self.simd < 1:
            raise HwgenError(f"Simd must be positive, not {self.simd!r}")
        if not 1 <= self.outputs <= self.packing.products:
            raise HwgenError(
                f"A column has 1 to {self.packing.products} outputs, not {self.outputs!r}"
            )

    @cached_property
    def chain(self) -> int:
        """Number of products that are summed before the fields are separated."""
        return int(chain_length(self.packing, self.simd))

    @property
    def guard(self) -> int:
        """Number of bits by which the sum of a chain exceeds its field."""
        return max(self.field_bits - self.packing.field, 0) if self.outputs > 1 else 0

    @property
    def chains(self) -> int:
        """Number of chains in a column."""
        return math.ceil(self.simd / self.chain)

    @cached_property
    def skew(self) -> tuple[int, ...]:
        """Per product, the number of cycles by which its operands are delayed."""
        if not self.packing.device.sum_bits:
            return (0,) * self.simd
        # The last chain may be shorter, but ends together with the others.
        missing = self.chains * self.chain - self.simd
        last = (self.chains - 1) * self.chain
        return tuple(
            (k % self.chain + (missing if k >= last else 0)) // 2 * 2 for k in range(self.simd)
        )

    @property
    def operand_bits(self) -> int:
        """Bits of the packed weights."""
        return (self.outputs - 1) * self.packing.field + self.packing.word_bits

    @property
    def product_latency(self) -> int:
        """Cycles from the operands to the sum of a chain."""
        packing = self.packing
        if packing.device.sum_bits:
            return 3 + self.chain - 1
        product = packing.device.product_latency(self.operand_bits, packing.activation_bits)
        return 1 + product + levels(self.chain)

    @property
    def sum_latency(self) -> int:
        """Cycles from the first operands to their sum, before the accumulator."""
        return self.product_latency + levels(self.chains)

    @property
    def latency(self) -> int:
        """Cycles from the last operands of a sum until the accumulator is visible."""
        return self.sum_latency + 1

    @property
    def field_bits(self) -> int:
        """Bits of the sum of a chain, including what it borrows."""
        bound = self.packing.bound(self.chain)
        return signed_width(-bound - 1, bound)

    def area(self, times: int = 1) -> Area:
        """Area of ``times`` equal columns."""
        packing, bits = self.packing, self.field_bits
        out = logic(
            "column", sum=times * self.outputs * (self.chains - 1) * (bits + 2),
            acc=times * self.outputs * self.acc_bits, one=times * self.outputs,
            carry=times * (self.outputs - 1) * self.chains,
            lut4_adders=times * self.outputs * (self.chains - 1),
            lowest=times * (self.outputs - 1) * self.simd * bool(self.guard),
            field=times * (self.outputs - 1) * self.chains * bool(self.guard),
        )
        if packing.device.sum_bits:
            return out + counted(dsp=times * self.simd)
        wide, narrow = (self.operand_bits, packing.activation_bits)
        return out + packing.device.area(wide, narrow, times * self.simd) + logic(
            "tree", operand=times * self.simd * (wide + narrow),
            sum=times * (self.simd - self.chains) * (wide + narrow + 1),
            lut4_adders=times * (self.simd - self.chains),
        )

    @property
    def signature(self) -> wiring.Signature:
        """Signature of the component."""
        words = data.ArrayLayout(signed(self.packing.word_bits), self.outputs)
        return wiring.Signature({
            "x": In(data.ArrayLayout(signed(self.packing.activation_bits), self.simd)),
            "w": In(data.ArrayLayout(words, self.simd)),
            "add": In(1),
            "first": In(1),
            "acc": Out(data.ArrayLayout(signed(self.acc_bits), self.outputs)),
        })

    def create(self) -> MacColumn:
        return MacColumn(self)


class MacColumn(Configured[MacColumnConfig]):
    """Accumulated dot products of ``simd`` activations with the weights of some outputs.

    Parameters
    ----------
    config : :class:`MacColumnConfig`

    Members
    -------
    x : :py:`In(ArrayLayout(signed(activation_bits), simd))`
        Activations; number ``k`` of a sum comes ``config.skew[k]`` cycles after the sum begins.
    w : :py:`In(ArrayLayout(ArrayLayout(signed(word_bits), outputs), simd))`
        Weights at the same time as their activations, in the form of :meth:`Packing.words`.
    add, first : :py:`In(1)`
        ``config.sum_latency`` cycles after the sum begins: add it to the accumulators; with
        ``first``, replace them by it.
    acc : :py:`Out(ArrayLayout(signed(acc_bits), outputs))`

    Timing
    ------
    ``config.latency`` cycles; one sum per cycle.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        outputs: list[list[tuple[Value, Value | None]]] = [[] for _ in range(config.outputs)]
        for start in range(0, config.simd, config.chain):
            products = range(start, min(start + config.chain, config.simd))
            if config.packing.device.sum_bits:
                total = self._cascade(m, products)
            else:
                total = self._tree(m, products)
            for output, term in zip(outputs, self._fields(m, total, products), strict=True):
                output.append(term)
        for k, terms in enumerate(outputs):
            total, carry = adder_tree(m, terms, config.field_bits, f"sum_{k}")
            with m.If(self.add):
                acc = self.acc[k]
                m.d.sync += acc.eq(add_carry(Mux(self.first, 0, acc), total, carry))
        return m

    def _operand(self, k: int) -> Value:
        """The packed weights of a product."""
        packing, outputs = self.config.packing, self.config.outputs
        below = [_extended(self.w[k][n], packing.field) for n in range(outputs - 1)]
        return Cat(*below, self.w[k][outputs - 1]).as_signed()

    def _cascade(self, m: Module, products: range) -> Value:
        """Sum along a cascade of DSPs."""
        config = self.config
        before = None
        for k in products:
            # Chains end together, so positions are counted from the end.
            position = config.chain - (products.stop - k)
            name = f"dsp_{k}"
            m.submodules[name] = dsp = MultiplyAdd(
                config.packing.multiplier, late=position % 2 == 1, first=before is None
            )
            m.d.comb += [dsp.a.eq(self._operand(k)), dsp.b.eq(self.x[k])]
            if before is not None:
                m.d.comb += dsp.pcin.eq(before.pcout)
            before = dsp
        assert before is not None
        return before.p

    def _tree(self, m: Module, products: range) -> Value:
        """Sum of products in a tree of adders; a shorter chain is delayed to match the others."""
        config = self.config
        terms: list[tuple[Value, Value | None]] = []
        for k in products:
            operand = self._operand(k)
            x = Signal(signed(config.packing.activation_bits), name=f"x_{k}", reset_less=True)
            w = Signal(signed(len(operand)), name=f"w_{k}", reset_less=True)
            m.d.sync += [x.eq(self.x[k]), w.eq(operand)]
            product = config.packing.device.product(m, w, x, f"product_{k}")
            terms.append((product, None))
        total, _ = adder_tree(m, terms, max(len(t) for t, _ in terms), f"chain_{products.start}")
        wait = levels(config.chain) - levels(len(products))
        return delayed(m, total, wait, f"chain_{products.start}")

    def _fields(self, m: Module, total: Value, products: range):
        """Separate the packed sum of a chain.

        Yields
        ------
        value : sum of an output
        borrow : what the output below has borrowed from it; None for the first
        """
        config = self.config
        field, bits = config.packing.field, config.field_bits
        borrow = None
        for n in range(config.outputs):
            low = n * field
            if n == config.outputs - 1 or bits <= field:
                value = total[low : low + bits]
            else:
                # The field is one bit short: its highest bit overlaps the lowest of the next sum.
                lowest = self._lowest_bit(m, products, n + 1)
                value = Cat(total[low : low + field], total[low + field] ^ lowest)
            value = _extended(value.as_signed(), bits)
            yield value.as_signed(), borrow
            borrow = value[-1]

    def _lowest_bit(self, m: Module, products: range, output: int) -> Value:
        """The lowest bit of an output's sum over a chain, in the cycle of that sum."""
        config = self.config
        name = f"lowest_{products.start}_{output}"
        time, bit = 0, None
        for skew in sorted({config.skew[k] for k in products}):
            # Operands go into registers first, because memories have slow outputs.
            terms = []
            for k in products:
                if config.skew[k] == skew:
                    # What the weight below borrows has been subtracted from the stored weight.
                    lowest = self.w[k][output][0] ^ self.w[k][output - 1][-1]
                    pair = Signal(2, name=f"{name}_{k}", reset_less=True)
                    m.d.sync += pair.eq(Cat(lowest, self.x[k][0]))
                    terms.append(pair.all())
            if bit is not None:
                terms.append(delayed(m, bit, skew + 1 - time, f"{name}_{skew}"))
            bit = Signal(name=f"{name}_{skew}", reset_less=True)
            m.d.sync += bit.eq(Cat(terms).xor())
            time = skew + 2
        assert bit is not None
        return delayed(m, bit, config.product_latency - time, name)


def _extended(value: Value, bits: int) -> Value:
    """A signed value truncated or sign-extended to ``bits`` bits, as a bit vector."""
    value = Value.cast(value)
    return Cat(value[:bits], value[-1].replicate(max(bits - len(value), 0)))


@dataclass(frozen=True, kw_only=True)
class MacArrayConfig(Part):
    """Shape of an array.

    Parameters
    ----------
    simd : :class:`int`
        Products summed in each cycle for each output.
    pe : :class:`int`
        Outputs of a group, which share its activations.
    groups : :class:`int`
    pixels : :class:`int`
        Pixels side by side, which share the weights.
    shared : :class:`str`
        What the products in a multiplier share.  ``"activation"``: the packed operand holds weights
        of several outputs.  ``"weight"``: it holds activations of several pixels (for depthwise
        layers, where each activation is multiplied by one weight only).
    packing : :class:`Packing`
        If weights are shared, its weights are the activations and its activations the weights.
    acc_bits : :class:`int`
        Bits of the accumulators.

    Raises
    ------
    :exc:`HwgenError`
        If a parameter is out of range.
    """

    simd: int
    pe: int
    groups: int = 1
    pixels: int = 1
    shared: str = "activation"
    packing: Packing
    acc_bits: int

    def __post_init__(self) -> None:
        for name in ("simd", "pe", "groups", "pixels"):
            if getattr(self, name) < 1:
                raise HwgenError(f"{name} must be positive, not {getattr(self, name)!r}")
        if self.shared not in ("activation", "weight"):
            raise HwgenError(f"Shared must be activation or weight, not {self.shared!r}")

    @property
    def weights_shared(self) -> bool:
        """Whether the products in a multiplier share a weight."""
        return self.shared == "weight"

    @cached_property
    def columns(self) -> tuple[MacColumnConfig, ...]:
        """The columns of a group for one pixel; for one output if weights are shared."""
        most = self.packing.products
        outputs = self.pixels if self.weights_shared else self.pe
        return tuple(
            MacColumnConfig(simd=self.simd, outputs=min(most, outputs - k), packing=self.packing,
                            acc_bits=self.acc_bits)
            for k in range(0, outputs, most)
        )

    @property
    def x_bits(self) -> int:
        """Bits of an activation."""
        packing = self.packing
        return packing.weight_bits if self.weights_shared else packing.activation_bits

    @property
    def w_bits(self) -> int:
        """Bits of a weight as it is stored."""
        packing = self.packing
        return packing.activation_bits if self.weights_shared else packing.word_bits

    @property
    def _packing_latency(self) -> int:
        """Cycles to pack activations; weights are packed before they are stored."""
        return int(self.weights_shared)

    @property
    def sum_latency(self) -> int:
        """Cycles from the first activations to their sums, before the accumulators."""
        return self._packing_latency + self.columns[0].sum_latency

    @property
    def latency(self) -> int:
        """Cycles from the last activations of a sum until the accumulators are visible."""
        return self._packing_latency + self.columns[0].latency

    @cached_property
    def skews(self) -> tuple[int, ...]:
        """Delay of each weight port; there is one port for each different delay."""
        return tuple(s + self._packing_latency for s in sorted(set(self.columns[0].skew)))

    def _products(self, skew: int) -> list[int]:
        late = skew - self._packing_latency
        return [k for k, s in enumerate(self.columns[0].skew) if s == late]

    @property
    def weight_widths(self) -> tuple[int, ...]:
        """Bits of each weight port."""
        bits = self.groups * self.pe * self.w_bits
        return tuple(bits * len(self._products(skew)) for skew in self.skews)

    def weight_words(self, weights: np.ndarray) -> list[np.ndarray]:
        """Weights ``(rows, groups * pe, simd)`` in the form of each port, ``(rows, words)``.

        Words are signed and have :attr:`w_bits` bits; the first one of a row is lowest.
        """
        rows = len(weights)
        most = 1 if self.weights_shared else self.packing.products
        split = np.asarray(weights).reshape(rows, self.groups, self.pe, self.simd)
        parts: list[list[np.ndarray]] = [[] for _ in self.skews]
        for group in range(self.groups):
            for start in range(0, self.pe, most):
                column = split[:, group, start : start + most].transpose(0, 2, 1)
                words = column if self.weights_shared else self.packing.words(column)
                for part, skew in zip(parts, self.skews, strict=True):
                    part.append(words[:, self._products(skew)].reshape(rows, -1))
        return [np.concatenate(part, axis=1) for part in parts]

    @property
    def dsp_products(self) -> int:
        """Products that its DSPs can compute in a cycle; 0 if there are none."""
        return self.resources().dsp * self.packing.products // max(self.packing.device.dsp, 1)

    def area(self, before: int = 0) -> Area:
        """What the array takes.

        Parameters
        ----------
        before : number of registers in a row in front of the activations that feed only the
            array.  Three or more in a row, including these, become a shift register.
        """
        shared = self.weights_shared
        times = self.groups * (self.pe if shared else self.pixels)
        skew = self.columns[0].skew
        chains = [(before + (0 if shared else late), self.x_bits) for late in skew]
        if shared:
            # Packing subtracts a borrow from all but the first, and has its own registers.
            chains += [(1 + late, self.packing.word_bits) for late in skew]
        size = self.groups * self.pixels
        packed = self.simd * self.packing.word_bits * (size - self.groups) * shared
        return total(c.area(times) for c in self.columns) + logic(
            "array", ff_register=size * sum(n * bits for n, bits in chains if n < 3),
            lut_shift=size * sum(bits for n, bits in chains if n >= 3), lut_packed=packed,
            ff4_shift=size * sum(n * bits for n, bits in chains if n >= 3),
        )

    @property
    def signature(self) -> wiring.Signature:
        """Signature of the component."""
        x = data.ArrayLayout(signed(self.x_bits), self.simd)
        return wiring.Signature({
            "x": In(data.ArrayLayout(x, self.pixels * self.groups)),
            **{f"w_{k}": In(width) for k, width in enumerate(self.weight_widths)},
            "add": In(1),
            "first": In(1),
            "acc": Out(data.ArrayLayout(signed(self.acc_bits),
                                        self.pixels * self.groups * self.pe)),
        })

    def create(self) -> MacArray:
        return MacArray(self)


class MacArray(Configured[MacArrayConfig]):
    """Accumulated sums of products of activations with the weights of ``groups * pe`` outputs.

    Parameters
    ----------
    config : :class:`MacArrayConfig`

    Members
    -------
    x : :py:`In(ArrayLayout(ArrayLayout(signed(x_bits), simd), pixels * groups))`
        Pixel by pixel.
    w_0, w_1, … : :py:`In(weight_widths[k])`
        Weights in the form of :meth:`MacArrayConfig.weight_words`, ``skews[k]`` cycles after ``x``.
    add, first : :py:`In(1)`
        ``config.sum_latency`` cycles after ``x``: add the sum to the accumulators; with ``first``,
        replace them by it.
    acc : :py:`Out(ArrayLayout(signed(acc_bits), pixels * groups * pe))`
        Pixel by pixel.

    Timing
    ------
    ``config.latency`` cycles; one sum per cycle.
    """

    def elaborate(self, platform):
        m = Module()
        if self.config.weights_shared:
            self._share_weights(m, platform)
        else:
            self._share_activations(m, platform)
        return m

    def _column(self, m: Module, name: str, column: MacColumnConfig, platform):
        mac = add_shared(m, name, column, platform)
        m.d.comb += [mac.add.eq(self.add), mac.first.eq(self.first)]
        return mac

    def _share_activations(self, m: Module, platform) -> None:
        """Multiply packed weights of several outputs by an activation."""
        config = self.config
        bits = config.x_bits
        output = 0
        for pixel in range(config.pixels):
            used = [0] * len(config.skews)
            for group in range(config.groups):
                n = pixel * config.groups + group
                late = self._skewed(m, str(n), [Value.cast(x) for x in self.x[n]])
                for k, column in enumerate(config.columns):
                    mac = self._column(m, f"column_{n}_{k}", column, platform)
                    size = config.w_bits * column.outputs
                    for product, word in self._weights(used, size):
                        m.d.comb += [
                            mac.x[product].eq(late[product][:bits].as_signed()),
                            mac.w[product].eq(word),
                        ]
                    for acc in mac.acc:
                        m.d.comb += self.acc[output].eq(acc)
                        output += 1

    def _share_weights(self, m: Module, platform) -> None:
        """Multiply packed activations of several pixels by a weight."""
        config = self.config
        used = [0] * len(config.skews)
        for group in range(config.groups):
            packed, pixel = [], 0
            for k, column in enumerate(config.columns):
                pixels = range(pixel, pixel + column.outputs)
                words = [
                    self._packed(m, f"packed_{group}_{k}_{product}", [
                        Value.cast(self.x[p * config.groups + group][product]) for p in pixels
                    ])
                    for product in range(config.simd)
                ]
                packed.append((pixels, self._skewed(m, f"{group}_{k}", words)))
                pixel = pixels.stop
            for output in range(config.pe):
                n = group * config.pe + output
                macs = [self._column(m, f"column_{n}_{k}", column, platform)
                        for k, column in enumerate(config.columns)]
                for product, word in self._weights(used, config.w_bits):
                    for mac, (_, late) in zip(macs, packed, strict=True):
                        m.d.comb += [
                            mac.x[product].eq(word.as_signed()), mac.w[product].eq(late[product]),
                        ]
                for mac, (pixels, _) in zip(macs, packed, strict=True):
                    for p, acc in zip(pixels, mac.acc, strict=True):
                        m.d.comb += self.acc[p * config.groups * config.pe + n].eq(acc)

    def _weights(self, used: list[int], size: int) -> Iterator[tuple[int, Value]]:
        """For each product of a column, its number and its words from the weight ports."""
        for n, skew in enumerate(self.config.skews):
            port = getattr(self, f"w_{n}")
            for product in self.config._products(skew):
                yield product, port[used[n] : used[n] + size]
                used[n] += size

    def _packed(self, m: Module, name: str, activations: list[Value]) -> Value:
        """Activations packed as :meth:`Packing.words` packs weights, a cycle later."""
        bits = self.config.packing.word_bits
        stored: list[Value] = []
        for k, x in enumerate(activations):
            word = Signal(signed(bits), name=f"{name}_{k}")
            m.d.comb += word.eq(x.as_signed() - (stored[-1][-1] if stored else 0))
            stored.append(word)
        return delayed(m, Cat(stored), 1, name)

    def _skewed(self, m: Module, name: str, values: list[Value]) -> dict[int, Value]:
        """Operands of a group, each delayed by the skew of its product."""
        skew, size = self.config.columns[0].skew, len(values[0])
        left = list(range(self.config.simd))
        out: dict[int, Value] = {}
        for time in range(max(skew) + 1):
            out |= {k: v for k, v in zip(left, values, strict=True) if skew[k] == time}
            left, values = (
                [k for k in left if skew[k] > time],
                [v for k, v in zip(left, values, strict=True) if skew[k] > time],
            )
            if left:
                # One wide register rather than many, because simulators work on words.
                late = Signal(sum(map(len, values)), name=f"x_{name}_{time}", reset_less=True)
                m.d.sync += late.eq(Cat(values))
                values = [late[n * size : (n + 1) * size] for n in range(len(left))]
        return out
