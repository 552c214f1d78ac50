"""A new op and its block, wholly in this file: from an ONNX file to simulated Verilog.

What docs/new_op.md describes.  The package is not touched: the op is registered from here.
"""

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from onnx import TensorProto, helper, numpy_helper

from hwgen.blocks.base import OpConfig
from hwgen.blocks.beat import BeatConfig, valid_chain
from hwgen.blocks.output import output_queue
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.design import DesignPoint, Folding
from hwgen.device.cost import Area, logic
from hwgen.emit.verilog import emit
from hwgen.errors import HwgenError
from hwgen.ir import Quantisation, TensorType
from hwgen.ir.op import Op
from hwgen.models.export import to_integer
from hwgen.models.export.writer import Writer, from_onnx_layout, to_onnx_layout, writes
from hwgen.models.load import read
from hwgen.models.lowering import core
from hwgen.models.lowering.core import Lowering, handles
from hwgen.models.onnx.session import session
from hwgen.sim.verilator import VerilatorModel
from hwgen.timing import sized
from tests.typed import ports

pytestmark = pytest.mark.verilator

BIT = Quantisation(1.0, 0, 2)


# 1. The op: its shape rule and its exact meaning.

@dataclass(frozen=True, eq=False)
class Hardmax(Op):
    """1 at the first largest channel of each pixel, 0 at all others."""

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        return (TensorType(inputs[0].shape, BIT),)

    def evaluate(self, inputs, types) -> tuple[np.ndarray, ...]:
        (x,) = inputs
        return ((np.arange(x.shape[-1]) == x.argmax(-1)[..., None]).astype(BIT.dtype),)


# 2. The block: configuration, exact time, resources, hardware, and which op it carries out.

@dataclass(frozen=True, kw_only=True)
class HardmaxConfig(BeatConfig, OpConfig):
    """Takes all channels of a pixel in a beat."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lanes != self.tensor.channels:
            raise HwgenError(f"Lanes must be all {self.tensor.channels} channels")

    @property
    def push_latency(self) -> int:
        return 1

    def area(self) -> Area:
        return self.queues_area() + logic("argmax", one=1, x=self.inputs[0].width)

    def create(self) -> wiring.Component:
        return HardmaxBlock(self)


class HardmaxBlock(wiring.Component):
    """Compares every pair of channels."""

    i: stream.Interface
    o: stream.Interface

    def __init__(self, config: HardmaxConfig) -> None:
        self.config = config
        super().__init__(config.signature)

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = ports(output_queue(self.config))
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        fire = Signal()
        m.d.comb += [
            self.i.ready.eq(queue.room), fire.eq(self.i.valid & self.i.ready),
            queue.reserve.eq(fire), queue.i.valid.eq(valid_chain(m, fire, 1)[-1]),
        ]
        for k in range(self.config.lanes):
            x = [self.i.p[n] for n in range(self.config.lanes)]
            largest = Cat(*(x[k] > x[n] for n in range(k)),
                          *(x[k] >= x[n] for n in range(k + 1, len(x)))).all()
            m.d.sync += queue.i.p[k].eq(largest)
        return m


@carries_out(Hardmax)
def _hardmax_block(request: BlockRequest) -> HardmaxConfig:
    return HardmaxConfig(op=request.op, tensor=request.tensor, lanes=request.lanes)


# 3. From ONNX, and back to it.

def _hardmax(low: Lowering, node: onnx.NodeProto) -> None:
    low.put(node.output[0], Hardmax(), low.tensor(node.input[0]))


@writes(Hardmax, form=Writer)
def _written(writer: Writer, node, op, types) -> None:
    real = writer.op("Cast", node.inputs[0], to=TensorProto.FLOAT)
    writer.op("Cast", writer.op("Hardmax", real, axis=1), out=node.name, to=TensorProto.INT8)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(core, "HANDLERS", dict(core.HANDLERS))
    handles("Hardmax")(_hardmax)
    random = np.random.default_rng(0)
    weights = {"w": random.normal(0, 0.3, (6, 3, 3, 3)), "v": random.normal(0, 0.5, (4, 6, 1, 1))}
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]),
         helper.make_node("Hardmax", ["c"], ["h"], axis=1),
         helper.make_node("Conv", ["h", "v"], ["y"])], "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_from_file_to_verilog(path):
    source = read(str(path))
    graph = source.graph
    assert [type(node.op) for node in graph.nodes][1] is Hardmax
    frames = source.frames(3)
    wanted = graph.evaluate(frames)
    again = session(to_integer(graph)).run(
        list(wanted), {name: to_onnx_layout(codes) for name, codes in frames.items()})
    for name, codes in zip(wanted, again, strict=True):
        np.testing.assert_array_equal(from_onnx_layout(codes), wanted[name])
    design = DesignPoint(foldings={"c": Folding(pe=6)}, lanes={"c": 6, "h": 6})
    _, netlist, timing = sized(graph, design)
    model = VerilatorModel(emit(netlist), netlist, path.parent / "sim", optimise=False)
    for settings in ({"interval": timing.interval}, {"stall": 0.3, "seed": 1}):
        run = model.run(frames, **settings)
        for name, codes in wanted.items():
            np.testing.assert_array_equal(run.outputs[name], codes)
        if "interval" in settings:
            assert (run.interval, run.latency) == (timing.interval, timing.latency)
