import re
from dataclasses import replace
from pathlib import Path

import pytest

from hwgen import boards
from hwgen.boards import Board, Memory, Shares
from hwgen.device.cost import Resources
from hwgen.errors import HwgenError

ZCU102 = (Path(boards.__file__).parent / "zcu102.toml").read_text()

FACTS = {  # part, DSP, BRAM18, URAM, LUT, FF, Gbit/s off-chip
    "zcu102": ("xczu9eg-ffvb1156-2-e", 2520, 1824, 0, 274080, 548160, 153.6),
    "zcu104": ("xczu7ev-ffvc1156-2-e", 1728, 624, 96, 230400, 460800, 153.6),
    "zcu106": ("xczu7ev-ffvc1156-2-e", 1728, 624, 96, 230400, 460800, 135.8),
    "kv260": ("xck26-sfvc784-2LV-c", 1248, 288, 64, 117120, 234240, 100),
    "zcu111": ("xczu28dr-ffvg1517-2-e", 4272, 2160, 80, 425280, 850560, 153.6),
    "u50": ("xcu50-fsvh2104-2-e", 5952, 2688, 640, 871680, 1743360, 1608),
    "u200": ("xcu200-fsgd2104-2-e", 6840, 4320, 960, 1182240, 2364480, 614.4),
    "u250": ("xcu250-figd2104-2L-e", 12288, 5376, 1280, 1728000, 3456000, 614.4),
    "vcu118": ("xcvu9p-flga2104-2L-e", 6840, 4320, 960, 1182240, 2364480, 307),
    "vcu110": ("xcvu190-flgc2104-2-e", 1800, 7560, 0, 1074240, 2148480, 100),
    "zc706": ("xc7z045ffg900-2", 900, 1090, 0, 218600, 437200, 102.4),
    "zedboard": ("xc7z020clg484-1", 220, 280, 0, 53200, 106400, 34.1),
    "pynq-z2": ("xc7z020clg400-1", 220, 280, 0, 53200, 106400, 16.8),
    "ulx3s-85f": ("LFE5U-85F", 156, 208, 0, 83640, 83640, 2.6),
}


def test_all_boards_load():
    assert boards.names() == sorted(FACTS)
    assert boards.load("zcu102").multiplier == "dsp48e2"
    assert boards.load("vcu110").multiplier == "dsp48e2"
    assert boards.load("zedboard").multiplier == "dsp48e1"
    assert boards.load("ulx3s-85f").multiplier == "mult18"


@pytest.mark.parametrize("name", FACTS)
def test_figures(name):
    part, dsp, bram18, uram, lut, ff, gbps = FACTS[name]
    board = boards.load(name)
    assert (board.name, board.part) == (name, part)
    assert board.resources == Resources(dsp=dsp, lut=lut, ff=ff, bram18=bram18, uram=uram)
    assert board.offchip_gbps == pytest.approx(gbps)
    assert board.offchip_practical_gbps == pytest.approx(0.8 * gbps)
    assert board.shares == Shares()
    assert board.usable == Resources(
        dsp=dsp * 97 // 100, lut=lut * 7 // 10, ff=ff * 8 // 10, bram18=bram18 * 95 // 100,
        uram=uram * 95 // 100,
    )


def test_channels():
    assert boards.load("u50").memory == (Memory("hbm2", "HBM", 50.25, 256, count=32),)
    assert boards.load("u200").memory == (Memory("ddr4", "DDR4", 153.6, 512, count=4),)
    assert boards.load("zcu104").memory == (Memory("ps_ddr4", "DDR4", 153.6, 128, ports=4),)


def test_several_memories_and_none():
    slow = Memory("slow", "DDR3", 10.0, 64, practical=0.5)
    fast = Memory("fast", "HBM", 50, 256, count=4)
    plain = Board("x", "part", "ecp5", 10, 10, 0, 100, 100, 50.0)
    assert (plain.offchip_gbps, plain.offchip_practical_gbps) == (0, 0)
    both = Board("x", "part", "ecp5", 10, 10, 0, 100, 100, 50.0, (slow, fast))
    assert both.offchip_gbps == 210
    assert both.offchip_practical_gbps == pytest.approx(5 + 160)


def test_shares_are_decimal():
    # 0.29 * 100 is 28.999999999999996.
    assert Shares(dsp=0.29).of(Resources(dsp=100)).dsp == 29
    assert Shares(*[1] * 5).of(Resources(7, 8, 9, 10, 11)) == Resources(7, 8, 9, 10, 11)


def test_own_file(tmp_path):
    own = tmp_path / "mine.toml"
    own.write_text(ZCU102.replace("2520", "100") + "practical = 0.5\n[usable]\ndsp = 0.5\n")
    board = boards.load(str(own))
    assert (board.name, board.dsp, board.usable.dsp, board.usable.bram18) == ("mine", 100, 50, 1732)
    assert board.offchip_practical_gbps == 76.8
    assert boards.load(own) == board


def test_clocks():
    """What a family can do, or less if the file says so; never more."""
    for name in boards.names():
        board = boards.load(name)
        most = boards.CLOCKS[board.family]
        board.check_clock(most)
        with pytest.raises(HwgenError, match=rf"^Clock must be from 1 to {most:g} MHz on board "
                                             rf"{name}, the most of .* devices, not 1000$"):
            board.check_clock(1000)
    slow = replace(boards.load("zcu102"), most_mhz=300)
    with pytest.raises(HwgenError, match=r"^Clock must be from 1 to 300 MHz on board zcu102, not "):
        slow.check_clock(301)
    with pytest.raises(HwgenError, match="most_mhz must be a number from 1 to 891, not"):
        replace(slow, most_mhz=900)
    with pytest.raises(HwgenError, match=r"^clock_mhz must be from 1 to 200 MHz"):
        replace(slow, most_mhz=200)


BRAM = "bram18 = 1824"


@pytest.mark.parametrize("change, message", [
    (("dsp = 2520", "dsp = -1"), r"dsp must be an integer from 0 to 10000000000, not -1"),
    (("dsp = 2520", "dsp = true"), r"dsp must be an integer from .*, not True"),
    (("dsp = 2520", "dsp = 2520.0"), r"dsp must be an integer from .*, not 2520\.0"),
    (("dsp = 2520", "dsp = 10000000001"),
     r"dsp must be an integer from 0 to 10000000000, not 10000000001"),
    ((BRAM, "bram18 = 90000000000"),
     r"bram18 must be an integer from 0 to 10000000000, not 90000000000"),
    (("uram = 0", "uram = inf"), r"uram must be an integer from 0 to 10000000000, not inf"),
    (("lut = 274080", "lut = 20000000000"),
     r"lut must be an integer from 0 to 10000000000, not 2.*"),
    (("ff = 548160", "ff = -7"), r"ff must be an integer from 0 to 10000000000, not -7"),
    (("dsp = 2520\nbram18 = 1824", ""), r"dsp, bram18 missing"),
    ((BRAM, f"{BRAM}\nfoo = 1"), r"'foo' unknown; known are part, family, dsp, .*, memory, usable"),
    ((BRAM, f"{BRAM}\noffchip_gbps = 1.0"), r"'offchip_gbps' unknown; known are .*"),
    ((BRAM, f"{BRAM}\nname = 'x'"), r"'name' unknown; known are .*"),
    ((BRAM, f"{BRAM}\nshares = 1"), r"'shares' unknown; known are .*usable"),
    (("ultrascale+", "virtex2"), r"family must be one of ultrascale\+, .*, not 'virtex2'"),
    (('family = "ultrascale+"', "family = []"), r"family must be one of .*, not \[\]"),
    (("clock_mhz = 250", "clock_mhz = 'fast'"), r"clock_mhz must be from 1 to 891 MHz .*'fast'"),
    (("clock_mhz = 250", "clock_mhz = nan"), r"clock_mhz must be from 1 to 891 MHz on .*, not nan"),
    (("clock_mhz = 250", "clock_mhz = true"), r"clock_mhz must be from 1 to 891 .*, not True"),
    (("clock_mhz = 250", "clock_mhz = [250]"), r"clock_mhz must be from 1 to 891 .*, not \[250\]"),
    ((BRAM, f"{BRAM}\nmost_mhz = 0.5"), r"most_mhz must be a number from 1 to 891, not 0\.5"),
    (('part = "xczu9eg-ffvb1156-2-e"', "part = 9"), r"part must be the device's name, not 9"),
    (("gbps = 153.6", "gbps = inf"), r"memory 1: gbps must be a number from 0\.001 .*, not inf"),
    (("gbps = 153.6", "gbps = -1"), r"memory 1: gbps must be a number from 0\.001 to 1.*, not -1"),
    (("gbps = 153.6", ""), r"memory 1: gbps missing"),
    (("DDR4", "DDR9"), r"memory 1: kind must be one of DDR3, DDR4, HBM, SDRAM, not 'DDR9'"),
    (('"ps_ddr4"', "7"), r"memory 1: name must be the memory's name, not 7"),
    (("axi_bits = 128", "axi_bits = 100"), r"memory 1: axi_bits must be one of 8, .*, not 100"),
    (("axi_bits = 128", "axi_bits = 128.0"), r"memory 1: axi_bits must be one of .*, not 128\.0"),
    (("ports = 4", "ports = 0"), r"memory 1: ports must be an integer from 1 to 64, not 0"),
    (("ports = 4", "ports = 1000000"), r"memory 1: ports must be an integer from 1 to 64, not 1.*"),
    (("ports = 4", "count = 257"), r"memory 1: count must be an integer from 1 to 256, not 257"),
    (("ports = 4", "count = '2'"), r"memory 1: count must be an integer from 1 to 256, not '2'"),
    (("ports = 4", "practical = 1.5"),
     r"memory 1: practical must be a number from 0\.01 to 1, not 1\.5"),
    ((BRAM, f"{BRAM}\nslrs = 5"), r"slrs must be an integer from 1 to 4, not 5"),
    ((BRAM, f"{BRAM}\nplatform = 'a b'"), r"platform must be a name like xilinx_u50_.*, not 'a b'"),
    (('board_part = "xilinx.com:zcu102:part0"', 'board_part = "zcu102"'),
     r"board_part must be a name like xilinx\.com:zcu104:part0, not 'zcu102'"),
    (('processor = "zynq-ultrascale+"', 'processor = "arm"'),
     r"processor must be one of zynq-7000, zynq-ultrascale\+, or be left out, not 'arm'"),
    (("ports = 4", "speed = 4"), r"memory 1: 'speed' unknown; known are name, kind, gbps, .*"),
    (("ports = 4", "[[memory]]\nname = 'ps_ddr4'\nkind = 'HBM'\ngbps = 1\naxi_bits = 64"),
     r"memory names must differ, not 'ps_ddr4' twice"),
    (("[[memory]]", "[memory]"), r"memory must be tables headed \[\[memory\]\], not .*"),
    (("ports = 4", "[usable]\ndsp = 1.01"),
     r"usable: dsp must be a number from 0\.01 to 1, not 1\.01"),
    (("ports = 4", "[usable]\nlut = 0"), r"usable: lut must be a number from 0\.01 to 1, not 0"),
    (("ports = 4", "[usable]\nbram = 1"), r"usable: 'bram' unknown; known are dsp, bram18, .*"),
    ((BRAM, f"{BRAM}\nusable = 0.9"), r"usable must be a table headed \[usable\], not 0\.9"),
])
def test_own_file_is_checked(tmp_path, change, message):
    own = tmp_path / "mine.toml"
    assert change[0] in ZCU102
    own.write_text(ZCU102.replace(*change))
    with pytest.raises(HwgenError, match=rf"^Board file \S*mine\.toml: {message}$"):
        boards.load(str(own))


def test_the_one_of_the_guide(tmp_path):
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
    own = tmp_path / "mine.toml"
    (body,) = re.findall(r"^```toml\n(part = .*?)^```", guide, re.M | re.S)
    own.write_text(body)
    mine, zcu104 = boards.load(own), boards.load("zcu104")
    assert (mine.resources, mine.memory) == (zcu104.resources, zcu104.memory)
    assert mine.shares == Shares(lut=0.6)


def test_not_toml(tmp_path):
    own = tmp_path / "mine.toml"
    for body in (b"dsp = = 3", b"\xff\xfe", b"<board/>"):
        own.write_bytes(body)
        with pytest.raises(HwgenError, match=r"^Board file \S*mine\.toml is not TOML: .*$"):
            boards.load(own)
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    with pytest.raises(HwgenError, match=r"^Board file \S* cannot be read: Is a directory$"):
        boards.load(folder)


def test_unknown():
    with pytest.raises(HwgenError, match=r"'zcu999' is unknown: give one of kv260, .*\.toml"):
        boards.load("zcu999")
    with pytest.raises(HwgenError, match=r"none\.toml cannot be read"):
        boards.load("none.toml")
