"""The search: designs that fit and meet their interval, on whole, halved and crippled boards."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from hwgen import boards
from hwgen.blocks.conv import FoldedConvConfig
from hwgen.blocks.registry import block_config
from hwgen.design import DesignPoint
from hwgen.device.cost import Resources
from hwgen.dse.design.amounts import RESOURCES, Amounts
from hwgen.dse.design.bounds import Work, divided
from hwgen.dse.design.check import check_design
from hwgen.dse.design.convolution import ConvTable
from hwgen.dse.design.search import design_for, search
from hwgen.dse.design.workload import Workload
from hwgen.errors import HwgenError
from hwgen.models.load import read
from hwgen.parts.stream import StreamType
from hwgen.timing import sized
from tests.networks import Builder
from tests.profiles import examples
from tests.typed import of_kind

pytestmark = pytest.mark.network


def network(size: int = 32):
    b = Builder((size, size, 3))
    x = b.act(b.conv("image", 16, 3, "c0", stride=2), "s0")
    y = b.act(b.conv(x, 16, 3, "c1"), "s1")
    z = b.conv(b.add(x, y, "sum"), 16, 3, "dw", groups=16)
    z = b.conv(z, 24, 1, "c2")
    b.graph.outputs = [b.conv(z, 10, 1, "head")]
    return b.graph


@pytest.mark.parametrize("name", ["zcu102", "zcu104", "zedboard", "ulx3s-85f"])
def test_design_fits_and_keeps_its_word(name: str) -> None:
    graph, board = network(), boards.load(name)
    found = search(graph, board)
    need = found.netlist.resources()
    for key in ("dsp", "bram18", "uram", "lut", "ff"):
        assert getattr(need, key) <= getattr(board.usable, key)
    assert found.timing.interval == found.netlist.interval
    assert found.timing.interval >= found.bounds.stream
    assert found.design.board == name
    assert found.explored
    assert found.plain()["bound_cycles"] == found.bounds.cycles
    assert found.timing.interval >= found.bounds.cycles
    assert found.gap >= 0
    assert found.bottlenecks
    assert check_design(graph, board, found.design, found.timing).netlist.resources() == need


@pytest.mark.parametrize("change", [{"dsp": 20}, {"dsp": 0}, {"dsp": 220}, {"lut": 4000}])
def test_no_design_is_below_the_bound(change: dict) -> None:
    """Where LUTs multiply a design may be below what DSPs alone allow, never below the other."""
    graph, board = network(), replace(boards.load("zedboard"), **change)
    found = search(graph, board)
    bound = found.bounds
    assert bound.cycles <= found.timing.interval
    assert bound.cycles == max(bound.products, bound.memory, bound.bandwidth, bound.stream)
    if board.dsp:
        assert bound.products <= bound.dsp
        assert bound.dsp_cycles == max(bound.cycles, bound.dsp)
    if board.dsp == 20:
        assert found.timing.interval < bound.dsp
        assert found.dsp_gap < 0 <= found.gap


def test_work_divided_among_two_kinds_of_multipliers() -> None:
    """As the linear program has it."""
    pick = np.random.default_rng(4)
    for _ in range(50):
        work = pick.uniform(0.1, 50, (pick.integers(1, 9), 2))
        work[:, 1] *= pick.choice([0.01, 1, 100])
        count = len(work)
        # Minimise t: both kinds are done by then; the share of each piece with the second kind.
        sides = np.zeros((2, count + 1))
        sides[0, :-1], sides[1, :-1], sides[:, -1] = -work[:, 0], work[:, 1], -1
        found = linprog(np.r_[np.zeros(count), 1], sides, [-work[:, 0].sum(), 0],
                        bounds=[(0, 1)] * count + [(0, None)])
        assert divided([Work(a, b) for a, b in work]) == pytest.approx(found.fun)
    assert divided([Work(1e30, 4.0), Work(1e29, 5.0)]) == pytest.approx(9)


def test_what_a_board_cannot_do() -> None:
    graph, board = network(), boards.load("zedboard")
    for clock, text in ((999_999, "999999"), (0.5, "0.5"), (742, "742")):
        with pytest.raises(HwgenError, match=(
                rf"^Clock must be from 1 to 741 MHz on board zedboard, the most of 7series "
                rf"devices, not {text}$")):
            search(graph, board, clock_mhz=clock)
    with pytest.raises(HwgenError, match="5e\\+08 frames a second are out of reach on zedboard at "
                                         "125 MHz: a frame takes a cycle at least"):
        search(graph, board, target_fps=5e8)
    found = search(graph, board)
    # The search's own designs are given back; those for other devices are refused.
    check_design(graph, board, found.design, found.timing)
    for changes, message in (
        ({"multiplier": "mult18"},
         r"^Node 'c0': multiplier must be 'dsp48e1' or 'fabric' on board zedboard, not 'mult18'$"),
        ({"requantiser_multiplier": "dsp48e2"},
         r"^Node 'c0': requantiser_multiplier must be 'dsp48e1' or 'fabric' "),
    ):
        foldings = dict(found.design.foldings)
        foldings["c0"] = replace(foldings["c0"], **changes)
        with pytest.raises(HwgenError, match=message):
            check_design(graph, board, replace(found.design, foldings=foldings), found.timing)
    with pytest.raises(HwgenError, match=r"^The design's clock_mhz must be from 1 to 741 MHz "):
        check_design(graph, board, replace(found.design, clock_mhz=1e5), found.timing)
    small = replace(board, lut=1000)
    with pytest.raises(HwgenError, match=r"^The design needs \d+ lut, \d+ of them for '\w+'; board "
                                         r"zedboard has 1000: "):
        check_design(graph, small, found.design, found.timing)


def test_resources_are_those_of_the_boards_family(tmp_path) -> None:
    """Also of a design from a file, which names the board and not its family."""
    graph, board = network(), boards.load("ulx3s-85f")
    found = search(graph, board)
    assert found.netlist.family == board.family == "ecp5"
    found.design.save(tmp_path / "design.json")
    design = DesignPoint.load(tmp_path / "design.json")
    again = check_design(graph, board, design, found.timing)
    need = again.netlist.resources()
    assert need == found.netlist.resources()
    other = replace(again.netlist, family="ultrascale+").resources()
    assert (need.dsp, need.bram18) == (other.dsp, other.bram18)
    assert need.lut > 1.2 * other.lut


def test_the_same_every_time() -> None:
    first, second = (search(network(), boards.load("zedboard")) for _ in range(2))
    assert first.design == second.design


def test_more_of_a_board_is_never_slower() -> None:
    graph, board = network(), boards.load("zedboard")
    intervals = [
        search(graph, replace(board, dsp=n, lut=100 * n)).timing.interval for n in (60, 120, 220)
    ]
    assert intervals == sorted(intervals, reverse=True)
    assert intervals[-1] < intervals[0]


def test_two_products_share_a_dsp() -> None:
    graph = network()
    dsps = [
        sized(graph, design_for(graph, boards.load(name), 5000))[1].resources().dsp
        for name in ("zcu102", "ulx3s-85f")
    ]
    assert dsps[1] > 1.4 * dsps[0]


def test_pixels_in_pairs_where_they_pay() -> None:
    """Depthwise layers share multipliers between pixels."""
    graph, board = network(), boards.load("zcu102")
    designs = [sized(graph, design_for(graph, board, 1024, pairs)) for pairs in (False, True)]
    (_, alone, _), (design, paired, _) = designs
    assert design.pixels["dw"] == 2
    assert design.foldings["dw"].shared == "weight"
    depthwise = [of_kind(netlist.blocks["dw"], FoldedConvConfig).array.resources().dsp
                 for netlist in (alone, paired)]
    assert depthwise[1] < 0.6 * depthwise[0]


def test_several_pixels_a_beat_where_the_input_is_the_limit() -> None:
    found = search(network(), boards.load("u250"))
    assert found.design.pixels["image"] > 1
    assert found.timing.interval < 32 * 32


def test_target_fps() -> None:
    graph, board = network(), boards.load("zcu102")
    found = search(graph, board, clock_mhz=100.0, target_fps=2000.0)
    assert 100e6 / found.timing.interval >= 2000
    assert found.netlist.resources().dsp < 60
    assert found.design.clock_mhz == 100.0
    with pytest.raises(HwgenError, match="out of reach on zcu102 at 250 MHz"):
        search(graph, board, target_fps=1e8)


def test_latency_takes_what_is_left_over() -> None:
    graph, board = network(), boards.load("u250")
    usual, quick = (search(graph, board, objective=name) for name in ("throughput", "latency"))
    assert quick.timing.interval <= usual.timing.interval * 1.01
    assert quick.timing.latency < usual.timing.latency
    with pytest.raises(HwgenError, match=r"^Objective must be one of throughput, latency, not 'x'"):
        search(graph, board, objective="x")


@pytest.mark.parametrize("change", [
    {"uram": 0}, {"bram18": 312}, {"bram18": 0}, {"dsp": 172}, {"dsp": 0}, {"lut": 23040},
])
def test_without_one_resource(change: dict[str, int]) -> None:
    """A legal design, or one line that says what is missing and what would help."""
    graph, board = network(64), replace(boards.load("zcu104"), **change)
    try:
        found = search(graph, board)
    except HwgenError as error:
        message = str(error)
    else:
        message = ""
        need = found.netlist.resources()
        for key in ("dsp", "bram18", "uram", "lut", "ff"):
            assert getattr(need, key) <= getattr(board.usable, key)
    if message:
        assert "too small" in message
        assert "choose a larger board" in message
        there = re.search(r"at least ([\d,]+) (\w+) of ([\d,]+) that may be used", message)
        assert there is not None
        needed, usable = (int(there[k].replace(",", "")) for k in (1, 3))
        usual = getattr(board.usable, there[2])
        assert 0.98 * usual - 1 <= usable <= usual
        assert needed > usable


def test_too_small() -> None:
    tiny = replace(boards.load("ulx3s-85f"), dsp=4, bram18=10, lut=100, ff=100)
    with pytest.raises(HwgenError, match=r"too small .* lut of .* for '.*': choose a larger board"):
        search(network(), tiny)
    assert Resources(1, 2) + Resources(3, 4) == Resources(4, 6)


@given(st.sampled_from(["c0", "c1", "dw", "c2"]), st.integers(0, 9999),
       st.sampled_from(["dsp48e2", "dsp48e1", "mult18"]))
@examples(60)
def test_tables_say_what_blocks_say(name: str, seed: int, multiplier: str) -> None:
    """Cycles and DSPs of a table are those of the block; memories nearly so."""
    graph, random = network(), np.random.default_rng(seed)
    node = next(node for node in graph.nodes if node.name == name)
    tensor, out = graph.types[node.inputs[0]], graph.types[name]
    lanes_in, lanes_out = (
        int(random.choice([n for n in range(1, t.channels + 1) if t.channels % n == 0]))
        for t in (tensor, out)
    )
    pixels = [(1, 1), (2, 2), (1, 2), (2, 1)][seed % 4]
    conv = node.op.as_conv(tensor)
    assert conv is not None
    table = ConvTable(Workload(conv, tensor, lanes_in, lanes_out, *pixels, multiplier))
    table.limit(1 << 40)
    dear = np.array(Amounts(1, 0, 0.01, 1, 1, 1))
    (way,), _ = table.cheapest(random.random((1, len(RESOURCES))) * dear + 1e-6)
    column = table.column(way)
    streams = (StreamType(tensor, lanes_in, pixels[0]),)
    config = block_config(node.op, streams, column.choice, lanes_out, pixels[1])
    assert column.cycles == config.interval
    need = config.resources()
    assert column.takes.dsp == need.dsp
    assert column.takes.bram18 + column.takes.uram <= need.bram18 + need.uram + 30


@pytest.mark.parametrize("change, named", [
    ({"dsp": 10**6, "lut": 4000}, {"lut"}),
    ({"ff": 3000}, {"ff"}),
])
def test_a_refusal_names_what_is_short(change, named):
    """Also where multipliers are so many that no stream is as quick as they are."""
    graph = read("resnet8").graph
    board = replace(boards.load("ulx3s-85f"), **change)
    with pytest.raises(HwgenError, match="is too small for this network") as found:
        search(graph, board)
    assert {kind for kind in RESOURCES if re.search(rf"\b{kind}\b", str(found.value))} == named
