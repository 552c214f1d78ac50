"""Elementwise product of two streams, for gates such as those of squeeze-and-excite."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from amaranth.hdl import Module, Signal, Value, signed

from hwgen.blocks.beat import Pair, PairConfig
from hwgen.blocks.registry import BlockRequest, carries_out, unchanged
from hwgen.device.arithmetic import signed_width
from hwgen.device.cost import Area, logic, total
from hwgen.device.multiplier import MULTIPLIERS, Multiplier
from hwgen.ir import Mul
from hwgen.parts.requantise import Requantiser, RequantiserConfig, lane_requantiser

__all__ = ["Product", "ProductConfig"]

SMALL = 10
"""Most bits of operands, together, that the fabric multiplies.

Synthesis might not use a DSP for such a product.
"""


@dataclass(frozen=True, kw_only=True)
class ProductConfig(PairConfig):
    """Elementwise product of two tensors of the same shape.

    Besides the requantisers, the product itself takes a multiplier, unless it is small.  In the
    fabric, a product of 8-bit codes would take about 170 LUTs, as much as the rest of a lane; one
    of 4-bit codes takes 50.

    Parameters
    ----------
    op : :class:`hwgen.ir.Mul`
    tensors : pair of :class:`TensorType`
        Types of the inputs.
    lanes : :class:`int`
        Elements per beat.
    multiplier : :class:`str`
        One of :data:`hwgen.device.multiplier.MULTIPLIERS`.
    """

    op: Mul
    multiplier: str = "dsp48e2"

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.requantiser

    @property
    def device(self) -> Multiplier:
        """The multiplier of the product itself."""
        return MULTIPLIERS["fabric" if sum(self.operands) <= SMALL else self.multiplier]

    @cached_property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Per input, the smallest and the largest code minus the zero point."""
        quantisations = [tensor.quantisation for tensor in self.tensors]
        return tuple((q.low - q.zero_point, q.high - q.zero_point) for q in quantisations)

    @property
    def operands(self) -> tuple[int, int]:
        """Bits of the product's operands, the wider first."""
        a, b = (signed_width(*span) for span in self.ranges)
        return max(a, b), min(a, b)

    @cached_property
    def requantiser(self) -> RequantiserConfig:
        """The requantisers behind the products."""
        corners = [x * y for x in self.ranges[0] for y in self.ranges[1]]
        return lane_requantiser(
            self.op.requantise, self.op.output, lanes=self.lanes,
            acc_range=(min(0, *corners), max(0, *corners)), multiplier=self.multiplier,
        )

    @property
    def product_latency(self) -> int:
        """Cycles from a pair to its product: zero points are subtracted, then it is multiplied."""
        return 1 + self.device.product_latency(*self.operands)

    @property
    def push_latency(self) -> int:
        return self.product_latency + self.requantiser.latency

    def area(self) -> Area:
        a, b = self.operands
        zero = sum(t.zero_point != 0 for t in self.tensors)
        return total((
            super().area(), self.requantiser.area(),
            self.device.area(a, b, self.lanes),
            logic("operands", bits=self.lanes * (a + b), offset=self.lanes * zero * a),
        ))

    def create(self) -> Product:
        return Product(self)


class Product(Pair):
    """Multiplies two streams, element by element.

    Parameters
    ----------
    config : :class:`ProductConfig`

    Members
    -------
    i_0, i_1 : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(output bits), lanes)))`

    Timing
    ------
    If the second beat of a pair is accepted in cycle t, the product is visible in
    t + 4 + ``config.push_latency``: t + 15 for 8-bit inputs and multipliers of one DSP.  One pair
    per cycle.
    """

    config: ProductConfig

    def results(
        self, m: Module, valid: list[Value], a: list[Value], b: list[Value]
    ) -> list[Value]:
        config = self.config
        m.submodules.requantiser = requantiser = Requantiser(config.requantiser)
        m.d.comb += requantiser.i.valid.eq(valid[config.product_latency])
        for lane, codes in enumerate(zip(a, b, strict=True)):
            operands = []
            for k, (code, tensor, span) in enumerate(
                zip(codes, config.tensors, config.ranges, strict=True)
            ):
                real = Signal(
                    signed(signed_width(*span)), name=f"real_{lane}_{k}", reset_less=True
                )
                m.d.sync += real.eq(code - tensor.zero_point)
                operands.append(real)
            narrow, wide = sorted(operands, key=len)
            product = config.device.product(m, wide, narrow, f"product_{lane}")
            m.d.comb += requantiser.i.p[lane].eq(product)
        return list(requantiser.o.p)


@carries_out(Mul, pixels=unchanged)
def _product(request: BlockRequest) -> ProductConfig:
    a, b = request.tensors
    return ProductConfig(op=request.op, tensors=(a, b), lanes=request.lanes,
                         **request.folded(ProductConfig))
