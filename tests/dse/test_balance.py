import pytest

import boards
from dse.balance import folded_for, search
from hwgen.blocks.base import Resources
from hwgen.errors import HwgenError
from tests.networks import Builder


def network():
    b = Builder((32, 32, 3))
    x = b.act(b.conv("image", 16, 3, "c0", stride=2), "s0")
    y = b.act(b.conv(x, 16, 3, "c1"), "s1")
    z = b.conv(b.add(x, y, "sum"), 24, 3, "c2", groups=8)
    b.graph.outputs = [b.conv(z, 10, 1, "head")]
    return b.graph


@pytest.mark.parametrize("name", ["zcu102", "zedboard", "ulx3s-85f"])
def test_design_fits_and_is_balanced(name):
    graph, board = network(), boards.load(name)
    design, netlist, timing = search(graph, board)
    need = netlist.resources()
    for key in ("dsp", "bram18", "lut", "ff"):
        assert getattr(need, key) <= getattr(board.resources, key)
    assert timing.interval == netlist.interval
    assert design.board == name
    # A larger interval never costs more.
    costs = [folded_for(graph, board, n * timing.interval)[1] for n in (1, 2, 4, 8)]
    assert costs == sorted(costs, reverse=True)


def test_two_products_share_a_dsp():
    graph = network()
    packed = folded_for(graph, boards.load("zcu102"), 5000)
    single = folded_for(graph, boards.load("ulx3s-85f"), 5000)
    assert single[1] > 1.5 * packed[1]


def test_target_fps():
    graph, board = network(), boards.load("zcu102")
    design, netlist, timing = search(graph, board, clock_mhz=100.0, target_fps=2000.0)
    assert 100e6 / timing.interval >= 2000
    assert netlist.resources().dsp < 200
    assert design.clock_mhz == 100.0
    with pytest.raises(HwgenError, match="out of reach on zcu102 at 250 MHz"):
        search(graph, board, target_fps=1e8)


def test_too_small(tmp_path):
    tiny = tmp_path / "tiny.toml"
    tiny.write_text('part = "x"\nfamily = "ecp5"\ndsp = 4\nbram18 = 10\nuram = 0\nlut = 100\n'
                    'ff = 100\nclock_mhz = 50\n')
    with pytest.raises(HwgenError, match=r"too small for this network|needs .* board tiny has"):
        search(network(), boards.load(str(tiny)))
    assert Resources(1, 2) + Resources(3, 4) == Resources(4, 6)
