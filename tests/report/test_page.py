"""The page is well-formed, complete and self-contained, and nothing in its drawings overlaps."""

import random
import re
import time
from dataclasses import asdict, replace
from html.parser import HTMLParser

import numpy as np
import pytest

from hwgen import boards
from hwgen.blocks.base import BLOCK_KINDS
from hwgen.blocks.conv import FoldedConvConfig
from hwgen.blocks.evict import EvictionConfig
from hwgen.blocks.fifo import FifoConfig
from hwgen.blocks.low_rank import LowRankLinearConfig
from hwgen.blocks.sparse_conv import SparseConvConfig, even_streams
from hwgen.design import DesignPoint, Folding, Sparse
from hwgen.ir import Gemm, Requantise, TensorType
from hwgen.offchip.bus import AxiConfig
from hwgen.parts.stream import StreamType
from hwgen.plan import plan
from hwgen.report.charts import pareto
from hwgen.report.drawing import BLOCK, LABEL, elided, pipework
from hwgen.report.figures import report
from hwgen.report.layered import SPACE, layered
from hwgen.report.page import KIND_LABELS, render
from tests.networks import Builder, Q, every_op
from tests.typed import of_kind

BOARD = boards.load("zcu102")
HOSTILE = 'a<b>&"c\'</title><script>alert(1)</script>'


class Page(HTMLParser):
    """Checks that tags are balanced; keeps the cells, titles and classes that it meets."""

    VOID = ("meta",)

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.classes, self.tags = [], {}, [], set()
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        assert not any(name.startswith("on") for name in names)
        self.classes += (dict(attrs).get("class") or "").split()
        if tag not in self.VOID:
            self.open.append(tag)
            self.text.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_data(self, data):
        for tag in set(self.open):
            self.text[tag][-1] += data


def reported(netlist, design):
    """A report without all that a page can do without."""
    data = report(netlist, design, model="net", interval=netlist.interval, latency=1000,
                  first_output=900, board=BOARD.resources, usable=BOARD.usable)
    assert data.pop("board_resources")["dsp"] == BOARD.dsp
    assert data.pop("usable")["dsp"] == BOARD.usable.dsp
    for layer in data["layers"]:
        parts = layer.pop("parts")
        for key in ("dsp", "bram18", "uram"):
            assert sum(part[key] for part in parts.values()) <= layer[key]
    return data


def small():
    builder, design = every_op()
    netlist = plan(builder.graph, design)
    return netlist, reported(netlist, design)


def searched(data):
    """Everything that the search may add to a report."""
    interval = data["interval_cycles"]
    whole = {key: data[key] for key in ("dsp", "bram18", "uram", "lut", "ff")}
    explored = [
        {**whole, "interval_cycles": interval * k // 4, "dsp": 4 * data["dsp"] // k, "fits": k > 3}
        for k in range(1, 200)
    ]
    layers = [
        {**layer, "parts": {"weights": {"lut": layer["lut"] // 2}, "unknown": {"lut": 1}}}
        for layer in data["layers"]
    ]
    return {
        **data, "layers": layers, "usable": asdict(BOARD.usable),
        "board_resources": asdict(BOARD.resources),
        "search": {
            "bounds": {"dsp": interval - 5, "memory": 10, "bandwidth": 0, "stream": 20},
            "bound_cycles": interval - 5, "gap": 5 / (interval - 5), "limit": "dsp",
            "dsp_bound_cycles": interval + 5, "dsp_gap": -5 / (interval + 5),
            "bottlenecks": ["c<3"], "advice": ["Buy a <larger> board."], "explored": explored,
            "seconds": 1.0,
        },
        "simulated": {"frames": 3, "mismatches": 0, "interval_cycles": 7, "latency_cycles": 8,
                      "first_output_cycles": 6,
                      "cycles_per_second": 9.0, "runs": []},
    }


def long_network(blocks):
    """A chain of residuals and branches, some of them long."""
    pick = random.Random(3)
    b = Builder((4, 4, 4))
    x, old = b.conv("image", 4, 1, HOSTILE), []
    for k in range(blocks // 4):
        y = b.act(b.conv(x, 4, 1, f"a_convolution_with_a_long_name_{k}"), f"act_{k}")
        old.append(x)
        x = b.add(y, old.pop(pick.randrange(max(0, len(old) - 6), len(old))), f"add_{k}")
    b.graph.outputs = [b.conv(x, 4, 1, "last"), *sorted(set(old) - {HOSTILE})[:3]]
    unread = set(b.graph.types) - {t for n in b.graph.nodes for t in n.inputs}
    b.graph.outputs += sorted(unread - set(b.graph.outputs))
    return plan(b.graph, DesignPoint("zcu102"))


def test_one_simulated_frame_has_no_interval():
    netlist, data = small()
    data |= searched(data)
    data["simulated"]["interval_cycles"] = None
    page = render(data, netlist, BOARD.resources)
    assert "0 mismatches in 3 frames; latency 8" in page


@pytest.mark.parametrize("more", [dict, searched])
def test_page(more):
    netlist, data = small()
    data |= more(data) if more is searched else {}
    text = render(data, netlist, BOARD.resources)
    page = Page(text)
    assert render(data, netlist, BOARD.resources) == text
    for word in ("http", "src=", "href", "url(", "@import"):
        assert word not in text
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    assert page.text["title"][0] == "net on zcu102"
    # A row and a box for each block.
    rows = [cell.split(" ")[0] for cell in page.text["td"]]
    tips = [tip.split("\n")[0] for tip in page.text["title"]]
    for layer in data["layers"]:
        assert layer["name"] in rows
        assert layer["name"] in tips
        assert f"{layer['interval_cycles']:,}" in page.text["td"]
    assert {edge.name for edge in netlist.edges} <= set(tips)
    assert f"{data['fps']:,.1f}" in page.text["b"]
    assert f"{data['mac_per_dsp_cycle']:.3f}" in page.text["b"]
    assert any("channel_lanes 5" in tip for tip in page.text["title"])


def test_what_the_search_adds():
    netlist, data = small()
    plain, full = (Page(render(d, netlist, BOARD.resources)) for d in (data, searched(data)))
    assert "What was explored" not in plain.text["h2"]
    assert "What was explored" in full.text["h2"]
    assert plain.classes.count("chosen") == 0
    assert full.classes.count("chosen") == 3  # one in each chart, one in the key
    assert full.text["li"] == ["Buy a <larger> board."]
    assert "c<3" in full.text["code"]
    assert any("limited by DSPs" in text for text in full.text["p"])
    assert any("% more" in text for text in full.text["p"])
    assert any("0 mismatches in 3 frames" in text for text in full.text["p"])
    assert "mark" in full.classes
    assert "mark" not in plain.classes
    assert "weights" in full.classes
    assert not {"weights", "window"} & set(plain.classes)
    assert any(f"{BOARD.usable.dsp:,}" == text for text in full.text["td"])
    # Without advice the page still says what to do.
    slowest = [n["name"] for n in data["layers"] if n["interval_cycles"] == netlist.interval]
    assert any(re.match(rf"Fold {slowest[0]}.* less", text) for text in plain.text["p"])


def test_a_design_below_the_bound_of_dsps():
    """With multipliers in LUTs a design may need fewer cycles than DSPs alone allow, but not fewer
    than DSPs and LUTs together."""
    netlist, data = small()
    data = searched(data)
    data["search"] |= {"bound_cycles": 1000, "gap": 0.021, "dsp_bound_cycles": 2000,
                       "dsp_gap": -0.076}
    (text,) = [t for t in Page(render(data, netlist, BOARD.resources)).text["p"] if "1,000" in t]
    true, dsps = text.split("With DSPs alone")
    assert "dense work" in true
    assert "2.1 % more" in true
    assert "2,000; this one takes 7.6 % fewer, for LUTs multiply too." in dsps


def test_what_the_fabric_multiplies():
    """A layer without DSPs for its products has no use of them, whatever requantises."""
    builder, design = every_op()
    design.foldings["c0"] = replace(design.foldings["c0"], multiplier="fabric",
                                    requantiser_multiplier="dsp48e2")
    netlist = plan(builder.graph, design)
    data = reported(netlist, design)
    layers = {layer["name"]: layer for layer in data["layers"]}
    assert layers["c0"]["dsp"] > 0
    assert layers["c0"]["dsp_products"] == 0
    assert "products_per_dsp" not in layers["c0"]
    share = 1 - layers["c0"]["macs"] / data["macs"]
    assert data["dsp_mac_share"] == pytest.approx(share)
    assert data["mac_per_dsp_cycle"] == pytest.approx(
        data["macs"] / data["interval_cycles"] / data["dsp"])
    page = Page(render(data, netlist, BOARD.resources))
    (row,) = [text for text in page.text["tr"] if text.startswith("c0 ")]
    assert "%" not in row
    alone = f"{data['mac_per_dsp_cycle'] * share:.3f}"
    (shown,) = [text for text in page.text["small"] if "LUTs make" in text]
    assert f"LUTs make {1 - share:.1%} of them" in shown
    assert alone in shown
    assert "LUTs make" not in "".join(Page(render(small()[1], netlist, BOARD.resources)).text["dd"])


def test_kinds_of_blocks():
    """Blocks say themselves what they are counted as."""
    stream = StreamType(TensorType((4, 4, 8), Q), 8)
    builder, design = every_op()
    dense = plan(builder.graph, design).blocks

    def scale(count):
        return Requantise.from_scale(np.full(count, 0.01))

    gemm = Gemm(np.ones((4, 8), np.int8), np.zeros(4), scale(4), Q)
    second = Gemm(np.ones((5, 4), np.int8), np.zeros(5), scale(5), Q)
    sparse = Folding(5, 1, 1, 2, sparse=Sparse(even_streams(5, 2)))
    design.foldings["c1"] = sparse
    blocks = {
        "convolution": [dense["c1"], plan(builder.graph, design).blocks["c1"],
                        LowRankLinearConfig(first=gemm, second=second,
                                            tensor=TensorType((8,), Q))],
        "queue": [FifoConfig(stream=stream), EvictionConfig(stream=stream, axi=AxiConfig())],
    }
    assert isinstance(blocks["convolution"][1], SparseConvConfig)
    for kind, configs in blocks.items():
        assert {config.kind for config in configs} == {kind}
    assert all(config.kind in BLOCK_KINDS for config in dense.values())
    assert set(BLOCK_KINDS) <= set(KIND_LABELS)


def test_sparse_pages_promise_no_cycle():
    netlist, data = small()
    sparsity = {"source": "8 frames", "layers": {"c0": {"density": 0.5}},
                "assumptions": ["Times are averages."]}
    for given, word in ((data, "Time is predicted to the cycle"),
                        (data | {"sparsity": sparsity}, "all times are means")):
        text = render(given, netlist, BOARD.resources)
        assert word in text
        assert ("to the cycle" in text) == (given is data)
    page = Page(text)
    assert "Sparsity" in page.text["h2"]
    assert page.text["li"] == ["Times are averages."]


def test_seeds_and_provenance():
    netlist, data = small()
    page = Page(render(data, netlist, BOARD.resources))
    assert "warning" not in page.classes
    assert "How it was made" not in page.text["h2"]
    data |= {"seeded": True, "provenance": {"command": "hwgen <x>", "board": "zcu102"}}
    page = Page(render(data, netlist, BOARD.resources))
    assert "warning" in page.classes
    assert any("seeded, not trained" in text for text in page.text["p"])
    assert "hwgen <x>" in page.text["code"]


def test_resources_by_kind():
    """The pieces of each bar add up to what is used, whatever is known of the parts."""
    netlist, data = small()
    for given in (data, searched(data)):
        page = Page(render(given, netlist, BOARD.resources))
        pieces = [re.fullmatch(r"(.*): ([\d,]+)", tip) for tip in page.text["title"]]
        pieces = [p for p in pieces if p and p[1] in KIND_LABELS.values()]
        amounts = sum(int(p[2].replace(",", "")) for p in pieces)
        assert amounts == sum(data[key] for key in ("dsp", "bram18", "uram", "lut", "ff"))
    assert sum(p[1] == "weights" for p in pieces) == 1


def test_use_of_dsps():
    netlist, data = small()
    layer = next(n for n in data["layers"] if n["name"] == "c0")
    dsps = of_kind(netlist.blocks["c0"], FoldedConvConfig).array.resources().dsp
    assert 0 < dsps < layer["dsp"]  # requantisers have some, too
    assert layer["dsp_products"] == 2 * dsps
    use = layer["macs"] / (data["interval_cycles"] * 2 * dsps)
    assert use <= 1
    page = Page(render(data, netlist, BOARD.resources))
    row = page.text["tr"][1 + [text.startswith("c0 ") for text in page.text["tr"][1:]].index(True)]
    assert f"{use:.0%}".replace("%", "\u00a0%") in row
    layer["dsp_products"] *= 2
    page = Page(render(data, netlist, BOARD.resources))
    assert f"{use / 2:.0%}".replace("%", "\u00a0%") in "".join(page.text["tr"])


def test_hostile_names():
    netlist = long_network(8)
    data = reported(netlist, DesignPoint("zcu102")) | {"model": HOSTILE, "board": "<b>"}
    data["search"] = {"bottlenecks": [HOSTILE], "advice": [HOSTILE], "limit": HOSTILE,
                      "bounds": {HOSTILE: 5}, "bound_cycles": 5, "gap": 0.5, "dsp_bound_cycles": 6,
                      "dsp_gap": 0.25}
    data["layers"] = [n | {"parts": {HOSTILE: {"lut": 1}}} for n in of_kind(data["layers"], list)]
    text = render(data, netlist, BOARD.resources)
    page = Page(text)
    assert "<script" not in text
    assert page.text["h1"] == [f"{HOSTILE} on <b>"]
    assert page.text["li"] == [HOSTILE]
    assert any(tip.startswith(HOSTILE + "\n") for tip in page.text["title"])


def test_a_board_too_small_and_a_design_without_dsps():
    netlist, data = small()
    tiny = boards.load("ulx3s-85f").resources
    assert data["dsp"] > tiny.dsp or data["lut"] > 0
    Page(render(data, netlist, tiny))
    data = {**data, "dsp": 0, "uram": 0, "mac_per_dsp_cycle": 0.0,
            "layers": [{**n, "dsp": 0} for n in data["layers"]]}
    page = Page(render(searched(data), netlist, type(tiny)(lut=1000, ff=10**6, bram18=1)))
    assert "DSP" not in page.text["td"]


def test_two_hundred_blocks():
    netlist = long_network(270)
    assert len(netlist.blocks) >= 200
    data = reported(netlist, DesignPoint("zcu102"))
    render(data, netlist, BOARD.resources)
    begin = time.process_time()
    render(data, netlist, BOARD.resources)
    assert time.process_time() - begin < 1


def check_layout(sizes, edges):
    """Nothing overlaps, all lies within, edges go down and cross no node."""
    drawn = layered(sizes, edges)
    boxes = drawn.boxes
    assert list(boxes) == list(sizes)
    for box in boxes.values():
        assert -1e-6 <= box.x <= box.x + box.width <= drawn.width + 1e-6
        assert -1e-6 <= box.y <= box.bottom <= drawn.height + 1e-6
    placed = list(boxes.values())
    for k, a in enumerate(placed):
        for b in placed[:k]:
            beside = a.x + a.width + SPACE <= b.x + 1e-6 or b.x + b.width + SPACE <= a.x + 1e-6
            assert beside or a.bottom < b.y or b.bottom < a.y
    for (source, sink), path in zip(edges, drawn.paths, strict=True):
        assert boxes[source].x < path[0][0] < boxes[source].x + boxes[source].width
        assert boxes[sink].x < path[-1][0] < boxes[sink].x + boxes[sink].width
        assert path[0][1] == pytest.approx(boxes[source].bottom)
        assert path[-1][1] == pytest.approx(boxes[sink].y)
        for (x, y), (to_x, to_y) in zip(path, path[1:]):
            assert y <= to_y
            assert -1e-6 <= x <= drawn.width + 1e-6
            for name, box in boxes.items():
                meets = y < box.bottom - 1e-6 and box.y < to_y - 1e-6
                if x != to_x:
                    # A curve: between ranks, where there are no nodes.
                    assert not meets or name in (source, sink)
                elif meets:
                    assert not box.x < x < box.x + box.width
    return drawn


def test_layout_of_networks():
    for netlist in (small()[0], long_network(120)):
        layers = reported(netlist, DesignPoint("zcu102"))["layers"]
        drawn = pipework(netlist, layers, netlist.interval)
        assert len(drawn.nodes) == len(netlist.blocks) + len(netlist.inputs) + len(netlist.outputs)
        assert len(drawn.streams) == len(netlist.edges)
        assert sum(node.binds for node in drawn.nodes) >= 1
        sizes = {k: (node.box.width, node.box.height) for k, node in enumerate(drawn.nodes)}
        place = {name: k for k, name in enumerate(
            [*(("i", n) for n in range(len(netlist.inputs))), *netlist.blocks,
             *(("o", n) for n in range(len(netlist.outputs)))])}
        edges = [(place[e.source[0] or ("i", e.source[1])], place[e.sink[0] or ("o", e.sink[1])])
                 for e in netlist.edges]
        check_layout(sizes, edges)


@pytest.mark.parametrize("seed", range(12))
def test_layout_of_random_graphs(seed):
    pick = random.Random(seed)
    count = pick.randint(1, 60)
    sizes = {k: (pick.choice([40.0, 120.0]), pick.choice([10.0, 24.0])) for k in range(count)}
    pairs = [sorted(pick.sample(range(count), 2)) for _ in range(2 * count) if count > 1]
    check_layout(sizes, [(a, b) for a, b in pairs if b - a < 15])


def test_a_chain_is_straight():
    drawn = check_layout(dict.fromkeys("abcdef", (50.0, 10.0)),
                         [*zip("abcde", "bcdef"), ("a", "f"), ("a", "f")])
    assert len({round(drawn.boxes[k].centre, 3) for k in "bcde"}) == 1


def test_labels_fit():
    assert elided("short") == "short"
    assert elided("x" * LABEL) == "x" * LABEL
    name = "model.0/m.0/cv1/conv/Conv_output_0"
    assert elided(name) == "model.0/m.…onv_output_0"
    assert len(elided(name)) == LABEL
    wide = elided("卷积" * 20)
    assert len(wide.replace("…", "")) * 2 + 1 <= LABEL
    # Ten pixels of a monospaced font are 6.02 wide.
    assert BLOCK[0] - 8 > LABEL * 6.02


def test_chart():
    explored = [(1000, 50, True), (1500, 60, True), (2000, 40, True), (2000, 40, True),
                (500, 90, False), (400, 10**6, False), (10**6, 1, True)]
    chart = pareto("DSPs", 1000, 50, 80, explored)
    assert chart.left_out == 2
    assert len(chart.marks) == 4
    assert len(chart.frontier) == 3
    for mark in (*chart.marks, chart.chosen):
        assert chart.left <= mark.x <= chart.right
        assert chart.top <= mark.y <= chart.bottom
    assert chart.limit is not None
    assert chart.top < chart.limit < chart.chosen.y
    for ticks in (chart.x_ticks, chart.y_ticks):
        assert 2 <= len(ticks) <= 9
        places = sorted(tick.at for tick in ticks)
        assert all(b - a > 14 for a, b in zip(places, places[1:]))
    for lone in ([], [(1000, 0, True)]):
        chart = pareto("on-chip memory", 1000, 0, 0, lone)
        assert chart.left <= chart.chosen.x <= chart.right
        assert chart.x_ticks
