"""Windows split into rows: the same values, whatever the geometry; names, edges and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.errors import HwgenError
from hwgen.ir import (
    AveragePool,
    Concat,
    Conv,
    ConvTranspose,
    Graph,
    MaxPool,
    Op,
    Pad,
    Quantisation,
    Requantise,
    Reshape,
    Table,
    TensorType,
    Window,
)
from hwgen.ir.rows import row_edges, split_rows
from tests.networks import Builder, every_op
from tests.profiles import examples

Q = Quantisation(0.1, 3)


@st.composite
def windows(draw: st.DrawFn) -> tuple[list[int], Window]:
    """Spatial extents and a window of several rows; any pads, of which some meet no frame."""
    rank = draw(st.integers(1, 3))
    kernel = [draw(st.integers(2, 4)), *(draw(st.integers(1, 3)) for _ in range(rank - 1))]
    stride = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilation = [draw(st.integers(1, 2)) for _ in range(rank)]
    pads = [(draw(st.integers(-2, k + 1)), draw(st.integers(-2, k + 1))) for k in kernel]
    spatial = [max((k - 1) * d + 1 - sum(p), 1) + draw(st.integers(0, 4))
               for k, d, p in zip(kernel, dilation, pads)]
    return spatial, Window(tuple(kernel), tuple(stride), tuple(pads), tuple(dilation))


def conv(window: Window, cin: int, cout: int, groups: int, seed: int) -> Conv:
    random = np.random.default_rng(seed)
    shape = (groups * cout, *window.kernel, cin)
    scale = Requantise.from_scale(random.uniform(0.001, 0.01, groups * cout))
    return Conv(random.integers(-127, 128, shape), random.integers(-500, 500, groups * cout),
                scale, Q, window.stride, window.pads, groups, dilation=window.dilation)


def check(op: Op, type: TensorType, seed: int) -> Graph:
    """Splits a graph of one op, and compares all that it computes."""
    graph = Graph()
    graph.add_input("x", type)
    graph.add(op, "x", name="y")
    graph.add(Table.from_function(np.tanh, graph.types["y"].quantisation, Q), "y", name="z")
    graph.outputs = ["z", "y"]
    split = split_rows(graph, "y")
    low, high = type.quantisation.low, type.quantisation.high
    x = {"x": np.random.default_rng(seed).integers(low, high + 1, (2, *type.shape))}
    want, got = graph.evaluate(x), split.evaluate(x)
    assert split.outputs == graph.outputs
    assert len(graph.nodes) == 2
    for name in graph.outputs:
        assert split.types[name] == graph.types[name]
        np.testing.assert_array_equal(got[name], want[name])
    for node in split.nodes:
        if isinstance(node.op, Conv | MaxPool | AveragePool):
            assert node.op.window.kernel[0] == 1
    return split


def meets(window: Window, spatial: list[int]) -> bool:
    """Whether some row of the kernel meets the frame."""
    (out, *_), (stride, *_), (dilation, *_) = (
        window.output(spatial), window.stride, window.dilation)
    return any(0 <= o * stride + k * dilation - window.pads[0][0] < spatial[0]
               for o in range(out) for k in range(window.kernel[0]))


@examples(150)
@given(windows(), st.sampled_from([(1, 3, 2), (2, 2, 3), (4, 1, 1), (3, 1, 2)]), st.integers(0, 99))
def test_convolutions(geometry, channels, seed: int) -> None:
    spatial, window = geometry
    groups, cin, cout = channels
    type = TensorType((*spatial, groups * cin), Quantisation(0.1, -7))
    op = conv(window, cin, cout, groups, seed)
    if meets(window, spatial):
        split = check(op, type, seed)
        assert split.macs <= op.macs(type)
    else:
        with pytest.raises(HwgenError, match=r"^Rows of 'y': The window never meets the frame$"):
            check(op, type, seed)


@examples(100)
@given(windows(), st.booleans(), st.integers(0, 99))
def test_pools(geometry, largest: bool, seed: int) -> None:
    spatial, window = geometry
    type = TensorType((*spatial, 2), Q)
    op: Op = MaxPool(window.kernel, window.stride, window.pads, window.dilation)
    if not largest:
        op = AveragePool(window.kernel, Requantise.from_scale(0.3), Q, window.stride, window.pads,
                         dilation=window.dilation)
    if meets(window, spatial):
        check(op, type, seed)


def test_means_that_do_not_count_padding() -> None:
    """Beside the frame they can be split, above it they cannot."""
    scales = Requantise.from_scale(1 / np.arange(1, 10))
    beside = AveragePool((3, 3), scales, Q, pads=((0, 0), (1, 1)), count_include_pad=False)
    check(beside, TensorType((6, 5, 2), Q), 0)
    for pads in ((1, 0), (0, 1), (-1, 2)):
        above = AveragePool((3, 3), scales, Q, pads=(pads, (0, 0)), count_include_pad=False)
        with pytest.raises(HwgenError, match=r"^Rows of 'y': Padding above or below that does not"):
            check(above, TensorType((6, 5, 2), Q), 0)


def test_what_it_is_made_of() -> None:
    """A convolution with padding: oldest row first, fills after crops, the input itself between."""
    b = Builder((8, 6, 3))
    b.graph.outputs = [b.conv("image", 4, 3, "c")]
    split = split_rows(b.graph, "c")
    assert row_edges(split, "c") == ["c_row0>c_rows", "image>c_rows", "c_row2>c_rows"]
    ops = {node.name: node.op for node in split.nodes}
    assert list(ops) == [
        "c_crop0", "c_flat0", "c_row0", "c_shaped0", "c_crop2", "c_flat2", "c_row2", "c_shaped2",
        "c_rows", "c",
    ]
    for name, pads in (("c_crop0", ((0, -1), (0, 0))), ("c_row0", ((6, 0),)),
                       ("c_crop2", ((-1, 0), (0, 0))), ("c_row2", ((0, 6),))):
        pad = ops[name]
        assert isinstance(pad, Pad)
        assert pad.pads == pads
    assert isinstance(ops["c_rows"], Concat)
    assert split.types["c_rows"].shape == (8, 6, 9)
    assert split.macs == b.graph.macs


def test_stride_and_depthwise() -> None:
    """Each stream has the rows that are needed; groups see the rows as pixels."""
    b = Builder((9, 6, 4))
    b.graph.outputs = [b.conv("image", 4, 3, "c", stride=2, groups=4)]
    split = split_rows(b.graph, "c")
    assert row_edges(split, "c") == [f"c_row{k}>c_rows" for k in range(3)]
    assert split.types["c_rows"].shape == (5, 6, 12)
    assert split.types["c_rows_apart"].shape == (5, 6, 3, 4)
    assert split.types["c_window"].shape == (5, 3, 1, 4)
    assert isinstance(split.nodes[-1].op, Reshape)


def test_every_window_of_a_network() -> None:
    b, _ = every_op()
    frames = b.frames(2)
    want = b.graph.evaluate(frames)
    graph = b.graph
    for name in ("c0", "c2", "c3", "pool", "head", "depthwise", "grouped", "mean"):
        graph = split_rows(graph, name)
    got = graph.evaluate(frames)
    for name, values in want.items():
        np.testing.assert_array_equal(got[name], values)


def test_files(tmp_path) -> None:
    b, _ = every_op()
    split = split_rows(b.graph, "depthwise")
    split.save(tmp_path / "graph.npz")
    assert Graph.load(tmp_path / "graph.npz").types == split.types


def test_refuses() -> None:
    b, _ = every_op()
    for name, message in (
        ("none", r"^The graph has no node 'none'$"),
        ("c1", r"^Rows of 'c1': A window of one row keeps none$"),
        ("scores", r"^Rows of 'scores': Gemm cannot be split$"),
        ("add", r"^Rows of 'add': Add cannot be split$"),
    ):
        with pytest.raises(HwgenError, match=message):
            split_rows(b.graph, name)
    with pytest.raises(HwgenError, match=r"^Rows of 'c0' are not split$"):
        row_edges(b.graph, "c0")
    once = split_rows(b.graph, "c0")
    with pytest.raises(HwgenError, match=r"^Rows of 'c0': A window of one row keeps none$"):
        split_rows(once, "c0")
    op = ConvTranspose(np.ones((2, 2, 2, 3)), [0, 0], Requantise.from_scale([0.1, 0.1]), Q, (2, 2))
    with pytest.raises(HwgenError, match=r"^Rows of 'y': ConvTranspose cannot be split$"):
        check(op, TensorType((4, 4, 3), Q), 0)


def test_a_name_that_is_taken() -> None:
    b = Builder((8, 6, 3))
    b.conv("image", 4, 1, "c_rows")
    b.graph.outputs = [b.conv("image", 4, 3, "c"), "c_rows"]
    with pytest.raises(HwgenError, match=r"^Rows of 'c': Tensor 'c_rows' is defined twice$"):
        split_rows(b.graph, "c")
