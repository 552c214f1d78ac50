"""The larger or smaller of two streams, beat by beat."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Module, Mux, Signal, Value

from hwgen import ir
from hwgen.blocks.beat import Pair, PairConfig
from hwgen.blocks.registry import BlockRequest, carries_out, unchanged
from hwgen.device.cost import Area, logic

__all__ = ["Extremum", "ExtremumConfig"]


@dataclass(frozen=True, kw_only=True)
class ExtremumConfig(PairConfig):
    """The larger of two tensors of one type, or the smaller.

    Parameters
    ----------
    op : :class:`hwgen.ir.Extremum`
    tensors : pair of :class:`TensorType`
        Types of the inputs.
    lanes : :class:`int`
        Elements a beat.
    """

    op: ir.Extremum

    @property
    def push_latency(self) -> int:
        return 1

    def area(self) -> Area:
        bits = self.outputs[0].width
        return super().area() + logic("extremum", lut_compare=bits, lut4_compares=self.lanes,
                                      ff_register=bits)

    def create(self) -> Extremum:
        return Extremum(self)


class Extremum(Pair):
    """Compares two streams, element by element.

    Parameters
    ----------
    config : :class:`ExtremumConfig`

    Members
    -------
    i_0, i_1, o : :py:`stream.Signature(ArrayLayout(signed(bits), lanes))`

    Timing
    ------
    A pair whose second was accepted in cycle t is visible in t + 5; one pair a cycle.
    """

    config: ExtremumConfig

    def results(
        self, m: Module, valid: list[Value], a: list[Value], b: list[Value]
    ) -> list[Value]:
        results: list[Value] = []
        for lane, (x, y) in enumerate(zip(a, b, strict=True)):
            result = Signal(x.shape(), name=f"result_{lane}", reset_less=True)
            first = x < y if self.config.op.smaller else x > y
            m.d.sync += result.eq(Mux(first, x, y))
            results.append(result)
        return results


@carries_out(ir.Extremum, pixels=unchanged)
def _extremum(request: BlockRequest) -> ExtremumConfig:
    a, b = request.tensors
    return ExtremumConfig(op=request.op, tensors=(a, b), lanes=request.lanes,
                          **request.folded(ExtremumConfig))
