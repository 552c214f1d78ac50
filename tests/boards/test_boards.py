from pathlib import Path

import pytest

import boards
from hwgen.errors import HwgenError

ZCU102 = (Path(boards.__file__).parent / "zcu102.toml").read_text()


def test_all_boards_load():
    assert len(boards.names()) == 14
    assert boards.load("zcu102").multiplier == "dsp48e2"
    assert boards.load("zedboard").multiplier == "dsp48e1"
    assert boards.load("ulx3s-85f").multiplier == "mult18"
    for name in boards.names():
        board = boards.load(name)
        assert board.name == name
        assert board.dsp > 0
        assert board.lut > 0
        assert board.resources.bram18 == board.bram18


def test_own_file(tmp_path):
    own = tmp_path / "mine.toml"
    own.write_text(ZCU102.replace("2520", "100"))
    board = boards.load(str(own))
    assert (board.name, board.dsp, board.offchip_share) == ("mine", 100, 0.8)
    own.write_text(ZCU102 + "offchip_share = 0.5\n")
    assert boards.load(own).offchip_share == 0.5


@pytest.mark.parametrize("change, message", [
    (("dsp = 2520", "dsp = -1"), "dsp must be an integer"),
    (("dsp = 2520", "dsp = true"), "dsp must be an integer"),
    (("dsp = 2520", "dsp = 2520.0"), "dsp must be an integer"),
    (("dsp = 2520", ""), "dsp missing"),
    (("dsp = 2520", "dsp = 2520\nfoo = 1"), "foo unknown"),
    (("ultrascale+", "virtex2"), "Family must be one of"),
    (("clock_mhz = 250", "clock_mhz = 'fast'"), "clock_mhz must be a positive number"),
    (("clock_mhz = 250", "clock_mhz = nan"), "clock_mhz must be a positive number"),
    (("offchip_gbps = 153.6", "offchip_gbps = inf"), "offchip_gbps must be a positive number"),
    (("dsp = 2520", "dsp = 2520\noffchip_share = 1.5"), "offchip_share must be at most 1"),
    (('part = "xczu9eg-ffvb1156-2-e"', "part = 9"), "Part must be the device's name"),
    (('family = "ultrascale+"', "family = []"), "Family must be one of"),
    (("dsp = 2520", "dsp = = 3"), "Board file .*mine.toml"),
])
def test_own_file_is_checked(tmp_path, change, message):
    own = tmp_path / "mine.toml"
    own.write_text(ZCU102.replace(*change))
    with pytest.raises(HwgenError, match=message):
        boards.load(str(own))


def test_unknown():
    with pytest.raises(HwgenError, match=r"'zcu999' is unknown: give one of kv260, .*\.toml"):
        boards.load("zcu999")
    with pytest.raises(HwgenError, match=r"none\.toml cannot be read"):
        boards.load("none.toml")
