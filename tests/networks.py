"""Small integer networks for tests: every op, branches, residuals, folds that do not divide."""

import numpy as np

from hwgen.design import DesignPoint, Folding
from hwgen.ir import (
    Add,
    AveragePool,
    Concat,
    Conv,
    Gemm,
    GlobalAveragePool,
    Graph,
    MaxPool,
    Quantisation,
    Requantise,
    Resize,
    Split,
    Table,
    TensorType,
)

Q = Quantisation(0.1, 3)
IMAGE = Quantisation(1 / 255, -128)


def silu(x):
    return x / (1 + np.exp(-x))


class Builder:
    """Adds ops with random weights to a graph."""

    def __init__(self, shape=(16, 16, 3), seed=0, input=IMAGE):
        self.random = np.random.default_rng(seed)
        self.graph = Graph()
        self.graph.add_input("image", TensorType(shape, input))

    def conv(self, x, cout, kernel, name, *, stride=1, pads=None, groups=1, output=Q):
        tensor = self.graph.types[x]
        rank = len(tensor.spatial)
        pads = ((kernel // 2,) * 2,) * rank if pads is None else pads
        cin = tensor.channels // groups
        weight = self.random.integers(-127, 128, (cout, *(kernel,) * rank, cin))
        ratio = self.random.uniform(0.002, 0.02, cout) / np.sqrt(weight[0].size)
        op = Conv(weight, self.random.integers(-9999, 9999, cout), Requantise.from_scale(ratio),
                  output, (stride,) * rank, pads, groups)
        return self.graph.add(op, x, name=name)

    def gemm(self, x, cout, name):
        size = self.graph.types[x].size
        ratio = self.random.uniform(0.002, 0.02, cout) / np.sqrt(size)
        op = Gemm(self.random.integers(-127, 128, (cout, size)),
                  self.random.integers(-999, 999, cout), Requantise.from_scale(ratio), Q)
        return self.graph.add(op, x, name=name)

    def act(self, x, name):
        have = self.graph.types[x].quantisation
        return self.graph.add(Table.from_function(silu, have, Q), x, name=name)

    def add(self, a, b, name):
        types = self.graph.types
        op = Add.from_types(types[a].quantisation, types[b].quantisation, Q)
        return self.graph.add(op, a, b, name=name)

    def frames(self, count, seed=1):
        (type,) = self.graph.inputs.values()
        q = type.quantisation
        random = np.random.default_rng(seed)
        return {"image": random.integers(q.low, q.high + 1, (count, *type.shape))}


def every_op():
    """A network with every op and block, and a design with folds that do not divide."""
    b = Builder((12, 12, 3))
    g = b.graph
    a = b.act(b.conv("image", 8, 3, "c0"), "s0")
    c = b.act(b.conv(b.act(b.conv(a, 8, 1, "c1"), "s1"), 8, 3, "c2"), "s2")
    d = b.add(a, c, "add")
    e = b.conv(d, 12, 3, "c3", stride=2)
    f = g.add(MaxPool((5, 5), (1, 1), ((2, 2), (2, 2))), e, name="pool")
    h = g.add(Concat(), e, f, name="cat")
    u = g.add(Resize((2, 2)), h, name="up")
    wide = g.add(Concat(), u, d, name="cat2")
    depthwise = b.conv(wide, 32, 3, "depthwise", groups=32)
    s0, s1 = g.add_node(Split((20, 12)), [depthwise], ["split_a", "split_b"])
    average = g.add(AveragePool((2, 2), Requantise.from_scale(0.25), Q, (2, 2)), s0, name="mean")
    grouped = b.conv(s1, 8, 3, "grouped", groups=2)
    g.add(GlobalAveragePool(Requantise.from_scale(1 / 36), Q), average, name="global")
    g.outputs = [b.conv(h, 6, 3, "head", stride=2), grouped, b.gemm("global", 5, "scores")]
    design = DesignPoint(
        "zcu102", 250.0,
        {
            "c0": Folding(3, 4, 1, 4), "c1": Folding(5, 1, 1, 2), "c2": Folding(8, 3, 1, 2),
            "c3": Folding(4, 2, 1, 5), "pool": Folding(tap_lanes=5), "head": Folding(7, 2, 1, 3),
            "depthwise": Folding(1, 3, 6, 1), "grouped": Folding(4, 3, 1, 2),
            "scores": Folding(6, 1, 1, 2),
        },
        {"image": 3, "c0": 2, "s0": 2, "c1": 2, "s1": 2, "add": 2, "cat": 4, "depthwise": 2},
    )
    return b, design


def two_inputs() -> tuple[Builder, DesignPoint]:
    """Two inputs; outputs of 5 lanes, of two pixels a beat, and of 16 bits."""
    b = Builder((8, 6, 3))
    b.graph.add_input("other", TensorType((4, 3, 5), Quantisation(0.05, 2)))
    a = b.conv("image", 4, 3, "c0", stride=2)
    c = b.conv("other", 4, 1, "c1")
    total = b.add(a, c, "sum")
    fine = b.conv(total, 5, 1, "fine", output=Quantisation(0.001, 7, 16))
    b.graph.outputs = [fine, b.act(total, "act"), b.gemm(total, 3, "scores")]
    design = DesignPoint(
        "zcu104", 250.0,
        {"c0": Folding(3, 3, 1, 4), "c1": Folding(5, 1, 1, 4), "fine": Folding(4, 1, 1, 5),
         "scores": Folding(4, 1, 1, 1)},
        {"image": 3, "other": 5, "c0": 4, "c1": 4, "sum": 4, "act": 4, "fine": 5, "scores": 1},
    )
    return b, design
