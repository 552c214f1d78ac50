"""Recurrent cells: LSTM, GRU and the plain one, step after step along the pixels of a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir.conv import Conv
from hwgen.ir.op import Op
from hwgen.ir.requantise import Requantise, requantise
from hwgen.ir.types import Quantisation, TensorType, whole

__all__ = ["Recurrent"]

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
"""Kind of a cell to its number of gates, in the order of ONNX: LSTM iofc, GRU zrh."""
ENTRIES = 1024
"""Entries of a table."""
STEP = 2.0**-6
"""Most that entries of a table are apart: a sigmoid changes by less than 1/256 then."""
CELL_STEP = 2.0**-7
"""What entries of the table of an LSTM's state are apart."""
FINEST = 5
"""Most bits by which sums are finer than entries: with 16 bits, they reach twice as far then."""
ONE = 15
"""Bits behind the point of what tables give, and of the state of a GRU: 1 is ``2**15``."""
STATE = Quantisation(1.0, 0, 16)
"""The codes of states, and of products with recurrent weights."""


@dataclass(frozen=True, eq=False)
class Recurrent(Op):
    """A recurrent cell: the state goes from each pixel of the frame to the next.

    The input holds what the inputs contribute to the gates, ``W x + b``, which an ordinary layer
    computes: for each hidden unit all of its gates, one after the other.  For each step, with
    ``v = clamp(round_half_even((R h * M + offset) / 2**s))`` and ``x`` without its zero point, in
    codes of the input::

        entry(u) = clamp((u + half) >> drop, -512, 511)
        LSTM   i, o, f, g = table[entry(x + v)]
               c = clamp(round_half_even((f * c * 2**(15 - fraction) + i * g) / 2**(30 - fraction)))
               h = clamp(round_half_even(o * cell[entry'(c)] / 2**shift))
        GRU    z, r = table[entry(x + v)], of the gates z and r
               n = table[clamp((x * 2**15 + r * v + half) >> (15 + drop), -512, 511)]
               c = clamp(round_half_even((n * 2**15 + z * (c - n)) / 2**15))
               h = clamp(round_half_even((n * 2**15 + z * (c - n)) / 2**shift))
               or, if ``reset_first``, n = table[entry(x + v)], whose v is of
               clamp(round_half_even(r * c / 2**shift)) in the place of h
        RNN    h = table[entry(x + v)]

    Every frame begins with the same state, unless the state is kept.  Values of gates have 15 bits
    behind the point, as has the state of a GRU, which would stand still if it were rounded to 8
    bits (the state of 16 bits beside outputs of 8 is that of the integer LSTM of Li and Alvarez,
    "On the quantization of recurrent neural networks", 2021; they multiply rescaled sums where
    tables are looked up here).  What goes through a tanh comes times 2, so that its table is as
    fine as that of a sigmoid.

    Parameters
    ----------
    kind : :class:`str`
        ``"lstm"``, ``"gru"`` or ``"rnn"``.
    weight : integer array, shape ``(units, gates, units)``
        Per unit and gate, the weights of the units of the step before.
    requantise : :class:`Requantise`
        Per unit and gate, one after the other: from ``R h`` to codes of the input; biases are
        offsets.
    tables : integer array, shape ``(gates, 1024)``
        Values of the gates, in 16 bits: entry 512 is for 0.  Of the plain cell, codes of the
        output.
    drop : :class:`int`
        Bits by which the codes of the input are finer than the entries of the tables; 0..5.
    output : :class:`Quantisation`
        Of the output, without a zero point.
    shift : :class:`int`
        1..30, see above; not used by the plain cell.
    cell : integer array, shape ``(1024,)``, or empty
        The tanh of the state of an LSTM, as the tables of gates.
    fraction : :class:`int`
        Bits behind the point of the state of an LSTM; 0..15.
    cell_drop : :class:`int`
        Bits by which the state is finer than the entries of its table; 0..12.
    initial_h, initial_c : integer arrays, shape ``(units,)``, or empty
        Codes of the output, and the state, in front of the first step; empty: zeros.
    weight_bits : :class:`int`
        2..9.
    function : :class:`str`
        Of the plain cell: ``"Tanh"`` or ``"Relu"``.
    reset_first : :class:`bool`
        Whether the reset gate of a GRU multiplies the units in front of the matrix, as Cho et al.
        have it ("Learning phrase representations using RNN encoder-decoder", 2014), and not
        ``R h`` plus its bias (``linear_before_reset`` of ONNX).
    keep : :class:`bool`
        Whether a frame begins with the state that the frame before left, and only the first frame
        with ``initial_h`` and ``initial_c``: frames that are evaluated at once follow each other.

    Raises
    ------
    :exc:`HwgenError`
        If a parameter is out of range.
    """

    kind: str
    weight: np.ndarray
    requantise: Requantise
    tables: np.ndarray
    drop: int
    output: Quantisation
    shift: int = 23
    cell: np.ndarray = ()  # pyright: ignore[reportAssignmentType]
    fraction: int = 0
    cell_drop: int = 0
    initial_h: np.ndarray = ()  # pyright: ignore[reportAssignmentType]
    initial_c: np.ndarray = ()  # pyright: ignore[reportAssignmentType]
    weight_bits: int = 8
    function: str = "Tanh"
    reset_first: bool = False
    keep: bool = False

    def __post_init__(self) -> None:
        if self.kind not in GATES:
            raise HwgenError(f"Kind must be one of {', '.join(GATES)}, not {self.kind!r}")
        if self.function not in ("Tanh", "Relu"):
            raise HwgenError(f"Function must be Tanh or Relu, not {self.function!r}")
        for name in ("weight", "tables", "cell", "initial_h", "initial_c"):
            object.__setattr__(self, name, whole(getattr(self, name), name.capitalize()))
        if self.weight.ndim != 3 or self.weight.shape[1:] != (self.gates, len(self.weight)):
            raise HwgenError(f"Weights must have the shape (units, {self.gates}, units), not "
                             f"{self.weight.shape!r}")
        for name, shape in (("tables", (self.gates, ENTRIES)),
                            ("cell", (ENTRIES,) if self.kind == "lstm" else (0,))):
            values = getattr(self, name)
            if values.shape != shape or (values < STATE.low).any() or (values > STATE.high).any():
                raise HwgenError(f"{name.capitalize()} must have the shape {shape!r} and values of "
                                 f"16 bits, not the shape {values.shape!r}")
        if self.kind == "rnn" and not (
                (self.tables >= self.output.low) & (self.tables <= self.output.high)).all():
            raise HwgenError(f"Tables must hold codes of {self.output.bits} bits")
        for name, low, high in (("drop", 0, FINEST), ("shift", 1, 30), ("fraction", 0, ONE),
                                ("cell_drop", 0, 12)):
            if not low <= getattr(self, name) <= high:
                raise HwgenError(f"{name.capitalize()} must be between {low} and {high}, not "
                                 f"{getattr(self, name)!r}")
        if self.output.zero_point:
            raise HwgenError(f"The output must have zero point 0, not {self.output.zero_point!r}")
        for name, codes in (("initial_h", self.output), ("initial_c", STATE)):
            values = getattr(self, name)
            if values.shape not in ((0,), (self.units,)) or not (
                    (values >= codes.low) & (values <= codes.high)).all():
                raise HwgenError(f"{name} must be {self.units} numbers of {codes.bits} bits, or "
                                 f"none")
        if self.kind == "rnn" and self.initial_c.any():
            raise HwgenError("initial_c must be empty for a plain cell, which has no other state")
        if self.reset_first and self.kind != "gru":
            raise HwgenError(f"Only a GRU has a reset gate, not the kind {self.kind!r}")
        _ = self.matrices

    @classmethod
    def from_float(
        cls, kind: str, weight: np.ndarray, x: TensorType, output: Quantisation, *,
        bias: np.ndarray | None = None, initial_h: np.ndarray | None = None,
        initial_c: np.ndarray | None = None, weight_bits: int = 8, function: str = "Tanh",
        reset_first: bool = False, keep: bool = False,
    ) -> Recurrent:
        """The integer form of a cell in real numbers.

        Parameters
        ----------
        kind, function, weight_bits, reset_first, keep : as for the op
        weight : real array, shape ``(units, gates, units)``
        x : type of the input, whose codes stand for ``W x + b``, times :meth:`gains`
        output : codes of the output
        bias : real array, shape ``(units,)``: of a GRU, what the reset gate multiplies beside
            ``R h``; not used if ``reset_first``
        initial_h, initial_c : real arrays, shape ``(units,)``

        Raises
        ------
        :exc:`HwgenError`
            If the codes of the input are too fine.
        """
        gates, units = GATES[kind], len(weight)
        if not x.scale >= STEP * 2.0**-FINEST:
            raise HwgenError(f"The input must have steps of at least {STEP * 2.0**-FINEST!r}, not "
                             f"{x.scale!r}")
        first, start = (np.zeros(units) if a is None else np.asarray(a, np.float64)
                        for a in (initial_h, initial_c))
        # Shifts round by powers of two; what is left is in the table in front.
        power = int(np.clip(np.floor(np.log2(output.scale)), 1 - 2 * ONE, 0))
        part = min(2.0**power / output.scale, 1.0)
        limit, gains = (1 << (weight_bits - 1)) - 1, cls.gains(kind, function)
        scale = abs(weight).max(-1) / limit
        scale = np.where(scale == 0, 1.0, scale)
        integers = np.clip(np.rint(weight / scale[..., None]), -limit, limit).astype(np.int64)
        rule = Requantise.from_scale((scale * gains * output.scale / x.scale).ravel())
        if bias is not None and kind == "gru" and not reset_first:
            real = np.zeros((units, gates))
            real[:, 2] = bias * gains[2] / x.scale
            rule = replace(rule, offset=np.rint(
                np.ldexp(real.ravel(), rule.shift)).astype(np.int64))
        drop = int(np.clip(np.rint(np.log2(STEP / x.scale)), 0, FINEST))
        at = np.arange(-ENTRIES // 2, ENTRIES // 2)
        real = at * x.scale * 2.0**drop
        if kind == "rnn":
            tables = output.quantise(
                np.tanh(real / 2) if function == "Tanh" else np.maximum(real, 0))[None]
            return cls(kind, integers, rule, tables, drop, output, weight_bits=weight_bits,
                       initial_h=_kept(output.quantise(first)), function=function, keep=keep)
        tables = np.stack([_coded(1 / (1 + np.exp(-real)) if gain == 1 else np.tanh(real / gain))
                           for gain in gains])
        same = {"drop": drop, "output": output, "shift": 2 * ONE + power,
                "initial_h": _kept(output.quantise(first)), "weight_bits": weight_bits,
                "keep": keep}
        if kind == "gru":
            tables[2] = np.rint(tables[2] * part)
            return cls(kind, integers, rule, tables, reset_first=reset_first,
                       initial_c=_kept(STATE.quantise(first * part * 2.0**ONE)), **same)
        # A step adds at most 1 to a state; only an LSTM that counts would go beyond 16.
        most = (16 if keep else x.pixels) + abs(start).max(initial=0)
        fraction = ONE - min(int(np.ceil(np.log2(most + 1))), 4)
        return cls(kind, integers, rule, tables, cell=_coded(np.tanh(at * CELL_STEP) * part),
                   fraction=fraction, cell_drop=fraction + round(np.log2(CELL_STEP)),
                   initial_c=_kept(STATE.quantise(start * 2.0**fraction)), **same)

    @staticmethod
    def gains(kind: str, function: str = "Tanh") -> np.ndarray:
        """Per gate, what pre-activations are multiplied by in front of the cell: 2 for a tanh."""
        return np.array({"lstm": [1, 1, 1, 2], "gru": [1, 1, 2],
                         "rnn": [2 if function == "Tanh" else 1]}[kind], np.float64)

    @property
    def gates(self) -> int:
        """Number of gates."""
        return GATES[self.kind]

    @property
    def units(self) -> int:
        """Number of hidden units."""
        return len(self.weight)

    @cached_property
    def matrices(self) -> tuple[Conv, ...]:
        """The products with the units of the step before, as convolutions of a vector.

        One; of a GRU that resets units in front of its matrix, a second one for its last gate.
        """
        gates = np.arange(self.gates)
        return tuple(self._matrix(part) for part in (
            (gates[:2], gates[2:]) if self.reset_first else (gates,)))

    def _matrix(self, gates: np.ndarray) -> Conv:
        """The product for some of the gates."""
        rows = (np.arange(self.units)[:, None] * self.gates + gates).ravel()
        rule = self.requantise
        if len(rule) != self.units * self.gates:
            raise HwgenError(f"The requantisation must have {self.units * self.gates} entries, "
                             f"one per unit and gate, not {len(rule)}")
        rule = replace(rule, multiplier=rule.multiplier[rows], shift=rule.shift[rows],
                       offset=None if rule.offset is None else rule.offset[rows])
        return Conv(self.weight[:, gates].reshape(-1, self.units), np.zeros(len(rows), int), rule,
                    STATE, weight_bits=self.weight_bits)

    @property
    def hidden(self) -> TensorType:
        """Type of the units of one step."""
        return TensorType((self.units,), self.output)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        if x.channels != self.units * self.gates:
            raise HwgenError(f"{self.units} units of {self.gates} gates need "
                             f"{self.units * self.gates} channels, not {x.channels!r}")
        if not x.spatial:
            raise HwgenError("A recurrent cell needs pixels, its steps, not a vector")
        return (TensorType((*x.spatial, self.units), self.output),)

    def first(self, what: str) -> np.ndarray:
        """The state in front of the first step, ``initial_h`` or ``initial_c``."""
        values = getattr(self, what)
        return values if values.size else np.zeros(self.units, np.int64)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        (x,), (type,) = inputs, types
        frames = len(x)
        steps = x.reshape(frames, type.pixels, self.units, self.gates).astype(np.int64)
        steps -= type.zero_point
        if self.keep:
            # One frame with the steps of all.
            steps = steps.reshape(1, -1, self.units, self.gates)
        count, length = steps.shape[:2]
        h, c = (np.broadcast_to(self.first(w), (count, self.units)).astype(np.int64)
                for w in ("initial_h", "initial_c"))
        out = np.empty((count, length, self.units), self.output.dtype)
        for t in range(length):
            h, c = self._step(steps[:, t], h, c)
            out[:, t] = h
        return (out.reshape(frames, *type.spatial, self.units),)

    def _product(self, k: int, h: np.ndarray) -> np.ndarray:
        """Product of a matrix and units: ``(frames, units, gates)``."""
        (v,) = self.matrices[k].evaluate([h], [self.hidden])
        return v.reshape(len(h), self.units, -1).astype(np.int64)

    def _step(
        self, x: np.ndarray, h: np.ndarray, c: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Units and state behind a step, of ``x`` ``(frames, units, gates)``."""
        v = self._product(0, h)
        gate = [self.tables[k][_entry(x[..., k] + v[..., k], self.drop)]
                for k in range(v.shape[-1])]
        if self.kind == "rnn":
            return gate[0], c
        if self.kind == "lstm":
            i, o, f, g = gate
            wide = (f * c << (ONE - self.fraction)) + i * g
            c = requantise(wide, 1, 2 * ONE - self.fraction, STATE).astype(np.int64)
            wide = o * self.cell[_entry(c, self.cell_drop)]
        else:
            z, r = gate[:2]
            if self.reset_first:
                left = requantise(r * c, 1, self.shift, self.output)
                inner, drop = x[..., 2] + self._product(1, left)[..., 0], self.drop
            else:
                inner, drop = (x[..., 2] << ONE) + r * v[..., 2], ONE + self.drop
            n = self.tables[2][_entry(inner, drop)]
            wide = (n << ONE) + z * (c - n)
            c = requantise(wide, 1, ONE, STATE).astype(np.int64)
        return requantise(wide, 1, self.shift, self.output).astype(np.int64), c

    def macs(self, *inputs: TensorType) -> int:
        return inputs[0].pixels * self.weight.size


def _entry(values: np.ndarray, drop: int) -> np.ndarray:
    """Entry of a table, for values that are finer by ``drop`` bits; halves are rounded up."""
    return np.clip((values + (1 << drop >> 1)) >> drop, -ENTRIES // 2, ENTRIES // 2 - 1) + (
        ENTRIES // 2)


def _coded(values: np.ndarray) -> np.ndarray:
    """Real numbers of -1..1 as values of gates."""
    most = (1 << ONE) - 1
    return np.clip(np.rint(values * 2.0**ONE), -most, most).astype(np.int64)


def _kept(values: np.ndarray) -> np.ndarray:
    """A state in front of the first step; empty if it is zero."""
    return values.astype(np.int64) if values.any() else np.zeros(0, np.int64)
