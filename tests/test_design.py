"""Design points: what a file keeps, and what is refused, there and when a pipeline is planned."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.conv import FoldedConvConfig
from hwgen.blocks.evict import EvictionConfig
from hwgen.blocks.sparse_conv import even_streams
from hwgen.design import OFF_CHIP, DesignPoint, Folding, MemoryPorts, Sparse
from hwgen.device.multiplier import MULTIPLIERS
from hwgen.device.storage import STYLES
from hwgen.errors import HwgenError
from hwgen.plan import plan
from tests.networks import Builder, every_op
from tests.profiles import examples

NAMES = st.text("abc>~:_ 1é", min_size=1, max_size=6)
COUNTS = st.integers(1, 1 << 40)
MAYBE = st.integers(0, 1 << 40)


def tables(values: st.SearchStrategy) -> st.SearchStrategy[dict]:
    """Values of a few names."""
    return st.dictionaries(NAMES, values, max_size=3)


FOLDINGS = st.builds(
    Folding, channel_lanes=COUNTS, tap_lanes=COUNTS, group_lanes=COUNTS, pe=COUNTS, capacity=MAYBE,
    multiplier=st.sampled_from(sorted(MULTIPLIERS)),
    requantiser_multiplier=st.sampled_from(["", *MULTIPLIERS]),
    shared=st.sampled_from(["activation", "weight"]), products=MAYBE,
    window_style=st.sampled_from(["", *STYLES, OFF_CHIP]),
    weight_style=st.sampled_from(["", *STYLES]),
    tile=MAYBE, resident=MAYBE, fold_cycles=MAYBE, pace=MAYBE,
)
DESIGNS = st.builds(
    DesignPoint, board=st.text(max_size=5), clock_mhz=st.floats(0.001, 1e6),
    foldings=tables(FOLDINGS), lanes=tables(COUNTS), pixels=tables(COUNTS), depths=tables(COUNTS),
    memories=tables(st.sampled_from([*STYLES, OFF_CHIP])),
    ports=st.builds(MemoryPorts, COUNTS, COUNTS, COUNTS, COUNTS),
    split=st.lists(NAMES, max_size=3).map(tuple),
)


@given(DESIGNS)
@examples(60)
def test_any_design_is_kept(tmp_path_factory: pytest.TempPathFactory, design: DesignPoint) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    design.save(path)
    assert DesignPoint.load(path) == design


def test_a_table_behind_a_convolution_has_no_block() -> None:
    b, design = every_op()
    netlist = plan(b.graph, design)
    assert netlist.ops["c1"] == ("c1", "s1")
    assert "s1" not in netlist.blocks
    assert netlist.blocks["c1"].outputs[0].tensor == b.graph.types["s1"]
    assert "s1>c2" in {edge.name for edge in netlist.edges}
    # Unless the design says something of what is between, or another reads it, too.
    for changes in ({"lanes": design.lanes | {"s1": 1}}, {"depths": {"c1>s1": 20}},
                    {"memories": {"c1>s1": "block"}}):
        netlist = plan(b.graph, replace(design, **changes))
        assert netlist.ops["s1"] == ("s1",)
    b.graph.outputs.append("c1")
    assert plan(b.graph, design).ops["s1"] == ("s1",)


def off_chip() -> tuple[Builder, DesignPoint]:
    """A network with streamed weights, an evicted edge and a window whose rows are split."""
    b, design = every_op()
    design.foldings["c3"] = replace(design.foldings["c3"], tile=2, resident=1, fold_cycles=30)
    design.memories = {"add>cat2": OFF_CHIP, "add>cat2:offchip": "block", "c0>s0": "distributed"}
    design.depths = {"c0>s0": 9}
    design.ports = MemoryPorts(2, 64, 8, 160)
    design.split = ("c2", "depthwise")
    del design.foldings["depthwise"]
    return b, design


def test_file(tmp_path: Path) -> None:
    """What it looks like, and that a pipeline is the same after it."""
    b, design = off_chip()
    path = tmp_path / "design.json"
    design.save(path)
    loaded = DesignPoint.load(path)
    assert loaded == design
    body = json.loads(path.read_text())
    assert body["ports"] == {
        "count": 2, "data_bits": 64, "burst": 8, "memory_latency": 160, "rate": 0.0}
    assert body["split"] == ["c2", "depthwise"]
    assert body["ops"]["c3"] | {"tile": 2, "resident": 1, "fold_cycles": 30} == body["ops"]["c3"]
    assert body["edges"] == {
        "add>cat2": {"memory": "offchip"}, "add>cat2:offchip": {"memory": "block"},
        "c0>s0": {"depth": 9, "memory": "distributed"},
    }
    netlist = plan(b.graph, loaded)
    assert netlist.offchip == plan(b.graph, design).offchip
    conv, evict = netlist.blocks["c3"], netlist.blocks["evict_add_cat2"]
    assert isinstance(conv, FoldedConvConfig)
    assert (conv.tile, conv.resident, conv.fold_cycles) == (2, 1, 30)
    assert (conv.axi.data_bits, conv.burst, conv.memory_latency) == (64, 8, 160)
    assert isinstance(evict, EvictionConfig)
    assert (evict.axi, evict.burst, evict.memory_latency) == (conv.axi, 8, 160)
    assert evict.styles == ("block",)
    assert {"c2_rows", "depthwise_rows", "depthwise_window"} <= set(netlist.blocks)
    assert netlist.offchip is not None
    assert netlist.offchip.ports == 2
    assert set(netlist.offchip.uses) == {"c3", "evict_add_cat2"}


def test_files_without_off_chip_memory(tmp_path: Path) -> None:
    """Files that were written before there was any."""
    path = tmp_path / "design.json"
    design = DesignPoint("zcu102", 250.0, {"c": Folding(2)}, {"c": 3})
    design.save(path)
    body = json.loads(path.read_text())
    del body["ports"], body["split"], body["edges"]
    for name in ("tile", "resident", "fold_cycles"):
        del body["ops"]["c"][name]
    path.write_text(json.dumps(body))
    assert DesignPoint.load(path) == design
    assert plan(every_op()[0].graph, DesignPoint()).offchip is None


def edit(change: Callable[[dict], Any], folder: Path) -> str:
    """The message for a file that was changed, without its name."""
    _, design = off_chip()
    path = folder / "design.json"
    design.save(path)
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))
    with pytest.raises(HwgenError) as found:
        DesignPoint.load(path)
    message = str(found.value)
    assert message.startswith(f"{path}")
    return message.removeprefix(f"{path}").removeprefix(": ").strip()


STYLE_LIST = "'distributed', 'block', 'ultra'"
MULTIPLIER_LIST = "'dsp48e2', 'dsp48e1', 'mult18', 'fabric'"


@pytest.mark.parametrize("path, value, message", [
    ("format", "x", "is not a design point: format must be 'hwgen-design-2'"),
    ("board", 3, "board must be a text, not 3"),
    ("clock_mhz", 0, "clock_mhz must be a positive number, not 0"),
    ("clock_mhz", "x", "clock_mhz must be a positive number, not 'x'"),
    ("ops", [], "ops must be a table, not []"),
    ("ops c3", 1, "ops 'c3' must be a table, not 1"),
    ("ops c3 channel_lanes", "1", "op 'c3': channel_lanes must be a positive integer, not '1'"),
    ("ops c3 pe", 0, "op 'c3': pe must be a positive integer, not 0"),
    ("ops c3 tile", -1, "op 'c3': tile must be an integer, 0 or more, not -1"),
    ("ops c3 resident", 1.0, "op 'c3': resident must be an integer, 0 or more, not 1.0"),
    ("ops c3 fold_cycles", True, "op 'c3': fold_cycles must be an integer, 0 or more, not True"),
    ("ops c3 products", "1", "op 'c3': products must be an integer, 0 or more, not '1'"),
    ("ops c3 capacity", None, "op 'c3': capacity must be an integer, 0 or more, not None"),
    ("ops c3 multiplier", "x", f"op 'c3': multiplier must be one of {MULTIPLIER_LIST}, not 'x'"),
    ("ops c3 requantiser_multiplier", "x",
     f"op 'c3': requantiser_multiplier must be one of '', {MULTIPLIER_LIST}, not 'x'"),
    ("ops c3 shared", "x", "op 'c3': shared must be one of 'activation', 'weight', not 'x'"),
    ("ops c3 window_style", "x",
     f"op 'c3': window_style must be one of '', {STYLE_LIST}, 'offchip', not 'x'"),
    ("ops c3 weight_style", "x",
     f"op 'c3': weight_style must be one of '', {STYLE_LIST}, 'offchip', not 'x'"),
    ("tensors image lanes", 0, "tensor 'image': lanes must be a positive integer, not 0"),
    ("tensors image pixels", 2.5, "tensor 'image': pixels must be a positive integer, not 2.5"),
    ("tensors image x", 1, "tensor 'image': x is not one of lanes, pixels"),
    ("edges c0>s0 depth", -1, "edge 'c0>s0': depth must be a positive integer, not -1"),
    ("edges c0>s0 depth", False, "edge 'c0>s0': depth must be a positive integer, not False"),
    ("edges c0>s0 memory", "ram",
     f"edge 'c0>s0': memory must be one of {STYLE_LIST}, 'offchip', not 'ram'"),
    ("edges c0>s0 memory", "",
     f"edge 'c0>s0': memory must be one of {STYLE_LIST}, 'offchip', not ''"),
    ("edges c0>s0 x", 1, "edge 'c0>s0': x is not one of depth, memory"),
    ("ports", 1, "ports: must be an object, not 1"),
    ("ports count", 0, "ports: count must be a positive integer, not 0"),
    ("ports data_bits", 64.0, "ports: data_bits must be a positive integer, not 64.0"),
    ("ports burst", True, "ports: burst must be a positive integer, not True"),
    ("ports memory_latency", "9", "ports: memory_latency must be a positive integer, not '9'"),
    ("ports width", 64, "ports: width is not one of count, data_bits, burst, memory_latency, rate"),
    ("edge", {}, "edge is not one of format, board, clock_mhz, ports, split, ops, tensors, edges"),
    ("split", "c2", "split must be a list of names of nodes, not 'c2'"),
    ("split", ["c2", 1], "split must be a list of names of nodes, not ['c2', 1]"),
])
def test_file_refuses(path: str, value: object, message: str, tmp_path: Path) -> None:
    """It names the op, tensor or edge, the field, and what is legal."""
    def change(body: dict) -> None:
        *outer, last = path.split()
        for name in outer:
            body = body[name]
        body[last] = value

    assert edit(change, tmp_path) == message


def test_a_depth_of_0_is_found(tmp_path: Path) -> None:
    _, design = off_chip()
    body = design.plain()
    body["edges"]["c0>s0"]["depth"] = 0
    assert DesignPoint.parse(body).depths.keys() == design.depths.keys() - {"c0>s0"}


def test_unknown_field_of_an_op(tmp_path: Path) -> None:
    message = edit(lambda body: body["ops"]["c3"].update(fold=1), tmp_path)
    assert message == (
        "op 'c3': fold is not one of channel_lanes, tap_lanes, group_lanes, pe, capacity, "
        "multiplier, requantiser_multiplier, shared, products, window_style, weight_style, tile, "
        "resident, fold_cycles, pace, score_lanes, value_lanes, value_pe, sparse"
    )


def test_a_design_of_an_earlier_version(tmp_path: Path) -> None:
    """It is refused with what has changed, so that it can be edited."""
    message = edit(lambda body: body.update(format="hwgen-design-1"), tmp_path)
    assert message.startswith("is of an earlier version: its fields window, weights, ")
    assert message.endswith("change that and its format to 'hwgen-design-2', or search again")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}"])
def test_not_a_design_point(text: str, tmp_path: Path) -> None:
    path = tmp_path / "design.json"
    with pytest.raises(HwgenError, match=r"^Design file .*\.json cannot be read: No such file"):
        DesignPoint.load(path)
    path.write_text(text)
    with pytest.raises(HwgenError, match=r"design\.json is not a design point: "):
        DesignPoint.load(path)


def fold(name: str, **fields) -> Callable[[DesignPoint], None]:
    """Change the folding of an op."""
    def change(design: DesignPoint) -> None:
        design.foldings[name] = replace(design.foldings.get(name, Folding()), **fields)

    return change


@pytest.mark.parametrize("change, message", [
    (lambda d: d.memories.update({"add>nope": OFF_CHIP}),
     r"^The design sets the memory of 'add>nope', which is not an edge$"),
    (lambda d: d.memories.update({"nope": "block"}),
     r"^The design sets the memory of 'nope', which is not an edge$"),
    (lambda d: d.memories.update({"s1>c2:offchip": "block"}),
     r"^The design sets the memory of 's1>c2:offchip', which is not an edge$"),
    (lambda d: d.depths.update({"nope": 3}),
     r"^The design sets the depth of 'nope', which is not an edge$"),
    (fold("c3", window_style=OFF_CHIP),
     r"^Node 'c3': window_style must not be 'offchip', for the buffer of a FoldedConv is on the"),
    (lambda d: setattr(d, "split", ("nope",)),
     r"^The design's split: The graph has no node 'nope'$"),
    (lambda d: setattr(d, "split", ("scores",)),
     r"^The design's split: Rows of 'scores': Gemm cannot be split$"),
    (lambda d: setattr(d, "split", ("c1",)),
     r"^The design's split: Rows of 'c1': A window of one row keeps none$"),
    (lambda d: setattr(d, "split", ("c2", "c2")),
     r"^The design's split: Rows of 'c2': A window of one row keeps none$"),
    (fold("c3", tile=4),
     (r"^Node 'c3': A tile must divide the 6 rows of windows and be walked at least once, "
      r"not 4 and 3$")),
    (fold("c3", tile=7), r"^Node 'c3': A tile must divide the 6 rows of windows .*, not 7 and"),
    (fold("c3", resident=4), r"^Node 'c3': Resident must be between 0 and 3, not 4$"),
    (fold("c3", tile=0, resident=1), r"^Node 'c3': Resident must be 0 without tiles, not 1$"),
    (fold("grouped", tile=1),
     r"^Node 'grouped': Tiles take all groups in parallel, group lanes 2, not 1$"),
    (fold("nope", tile=1), r"^The design folds 'nope', which is not in the graph$"),
    (lambda d: setattr(d, "ports", MemoryPorts(data_bits=48)),
     r"AXI data bits must be a power of two from 32 to 1024, not 48$"),
    (lambda d: setattr(d, "ports", MemoryPorts(data_bits=128, burst=512)),
     r"^Node 'c3': Burst must be at most 256 words, not 512$"),
    (lambda d: setattr(d, "ports", MemoryPorts(memory_latency=3)),
     r"Memory latency must be at least the [0-9]+ words of a request, not 3$"),
])
def test_plan_refuses(change: Callable[[DesignPoint], None], message: str) -> None:
    b, design = off_chip()
    design.memories = {"add>cat2": OFF_CHIP}
    design.depths, design.split = {}, ()
    design.foldings["depthwise"] = every_op()[1].foldings["depthwise"]
    plan(b.graph, design)
    change(design)
    with pytest.raises(HwgenError, match=message):
        plan(b.graph, design)


def sparse_design() -> tuple[Builder, DesignPoint]:
    """As :func:`tests.networks.every_op`, with a layer that passes over zeros."""
    b, design = every_op()
    design.foldings["c1"] = Folding(5, 1, 1, 2, sparse=Sparse(even_streams(5, 2)))
    return b, design


OTHERS = {"multiplier": "fabric", "requantiser_multiplier": "fabric", "shared": "weight",
          "window_style": "block", "weight_style": "block", "sparse": Sparse(((0,),))}
"""Of fields that are no numbers, legal values that are not the defaults."""


@pytest.mark.parametrize("made", [every_op, off_chip, sparse_design])
def test_fields_that_a_block_does_not_use(made: Callable) -> None:
    """Each is refused, with the node, the field, its default, and the fields that are legal."""
    b, design = made()
    netlist = plan(b.graph, design)
    unused = 0
    for name in netlist.ops:
        config = netlist.blocks[name]
        own = design.foldings.get(name, Folding())
        for each in fields(Folding):
            value = OTHERS.get(each.name, 777)
            changed = replace(design, foldings={
                **design.foldings, name: replace(own, **{each.name: value}),
            })
            if each.name == "sparse" and each.name not in config.folding_fields and (
                    config.kind == "convolution"):
                continue  # That makes another block of it.
            if each.name in config.folding_fields:
                continue
            unused += 1
            with pytest.raises(HwgenError) as found:
                plan(b.graph, changed)
            message = str(found.value)
            assert message.startswith(
                f"Node {name!r}: {each.name} must be {each.default!r}, not {value!r}"), message
            assert message.endswith(
                f"fields that it uses: {', '.join(config.folding_fields) or 'none'}")
    assert unused > 100


@pytest.mark.parametrize("name", ["c0", "pool", "mean", "depthwise"])
def test_numbers_out_of_range(name: str) -> None:
    """Numbers that a block uses are refused where they fit nothing, with the node and the field."""
    b, design = every_op()
    config = plan(b.graph, design).blocks[name]
    for field in config.folding_fields:
        if field in ("capacity", "fold_cycles", "pace") or field in OTHERS:
            continue
        own = replace(design.foldings.get(name, Folding()), **{field: 10**9})
        with pytest.raises(HwgenError, match=rf"^Node '{name}': ") as found:
            plan(b.graph, replace(design, foldings={**design.foldings, name: own}))
        words = field.replace("_", " ").removesuffix(" lanes")
        assert words in str(found.value).lower().replace("groups in parallel", "group lanes") or (
            field == "tile" and "tile" in str(found.value).lower())


def test_numbers_too_large_for_any_block() -> None:
    with pytest.raises(HwgenError, match=r"^capacity must be an integer, 0 or more, at most 1099"):
        Folding(capacity=(1 << 40) + 1)
    with pytest.raises(HwgenError, match=r"^pe must be a positive integer, at most 1099511627776,"):
        Folding(pe=1 << 41)


@pytest.mark.parametrize("made, name, where", [
    (every_op, "s1", "fold 'c1'"), (off_chip, "depthwise", "fold 'depthwise_window'"),
])
def test_nodes_without_a_block(made: Callable, name: str, where: str) -> None:
    b, design = made()
    design.foldings[name] = Folding()
    plan(b.graph, design)
    design.foldings[name] = Folding(pe=2)
    with pytest.raises(HwgenError, match=f"^The design folds '{name}', which has no block of its "
                                         f"own: {where}$"):
        plan(b.graph, design)
