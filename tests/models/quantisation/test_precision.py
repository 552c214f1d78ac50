"""Bit widths from text and files: who wins, what was never used, what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.errors import HwgenError
from hwgen.models.quantisation.precision import Precision

TOML = """
default = "w8a8"
[layers]
"conv1*" = "w6a7"
"layer3.*" = "w4a16"
"layer3.0.*" = {weights = 5}
"fc" = {activations = 3}
"""


@given(st.integers(2, 8), st.sampled_from([2, 3, 4, 5, 6, 7, 8, 16]))
def test_text(weights, activations):
    precision = Precision.parse(f"w{weights}a{activations}")
    assert (precision.weights("any"), precision.activations()) == (weights, activations)
    assert str(precision) == f"w{weights}a{activations}"
    assert precision.unused() == []


@pytest.mark.parametrize("text", ["int8", "", "w8", "w1a8", "w9a8", "w8a9", "w8a1", "w16a16",
                                  "W8A8", "w8a8 ", "w8a8\n", "w08a8x", "net.tml"])
def test_wrong_text(text):
    with pytest.raises(HwgenError, match=r"^Precision must look like 'w8a8', with 2 to 8 bits for "
                                         r"weights and 2 to 8 or 16 for activations, not "):
        Precision.parse(text)


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_file(tmp_path, kind):
    path = tmp_path / f"bits.{kind}"
    layers = {"conv1*": "w6a7", "layer3.*": "w4a16", "layer3.0.*": {"weights": 5},
              "fc": {"activations": 3}}
    path.write_text(TOML if kind == "toml" else json.dumps({"layers": layers}))
    precision = Precision.parse(str(path))
    assert precision.unused() == ["conv1*", "layer3.*", "layer3.0.*", "fc"]
    for name, weights, activations in (
        ("other", 8, 8), ("conv1", 6, 7), ("conv12/x", 6, 7), ("layer3.2.conv", 4, 16),
        ("layer3.0.conv", 5, 16), ("fc", 8, 3),
    ):
        assert (precision.weights(name), precision.activations(name)) == (weights, activations)
    assert precision.weights("node", "conv1") == 6
    assert precision.unused() == []
    fresh = Precision.parse(path)
    fresh.weights("layer3.0.x")
    assert fresh.unused() == ["conv1*", "fc"]


@pytest.mark.parametrize("text, message", [
    ("default = ", "is not a precision file: "),
    ("\x00", "is not a precision file: "),
    ('default = "w8"', "default must look like 'w8a8'"),
    ("default = {weights = 8}", "the default must state weights and activations"),
    ("default = 8", "default must look like 'w8a8', .* not 8"),
    ('layer = "w8a8"', "holds 'layer': only 'default' and the table 'layers' are known"),
    ('layers = "w8a8"', "must hold 'default' and a table 'layers'"),
    ('[layers]\nconv.one = "w8a8"', r"layer 'conv' must state .*, not 'one' \(names with dots"),
    ("[layers]\nfc = {}", "layer 'fc' must state weights, activations or both, not nothing"),
    ("[layers]\nfc = {weights = 9}", "layer 'fc': weights must have 2 to 8 bits, not 9"),
    ("[layers]\nfc = {weights = true}", "not True"),
    ("[layers]\nfc = {weights = 8.0}", "not 8.0"),
    ("[layers]\nfc = {activations = 12}", "activations must have 2 to 8 or 16 bits, not 12"),
    ('[layers]\nfc = "w8a10"', "layer 'fc' must look like 'w8a8', .* not 'w8a10'"),
])
def test_wrong_file(tmp_path, text, message):
    path = tmp_path / "bits.toml"
    path.write_text(text)
    with pytest.raises(HwgenError, match=message):
        Precision.parse(path)


def test_wrong_json(tmp_path):
    path = tmp_path / "bits.json"
    for data in (b"[]", b"{", b"\xff", b'"w8a8"', b"[" * 100_000):
        path.write_bytes(data)
        with pytest.raises(HwgenError, match=r"bits\.json (is not a precision|must hold)"):
            Precision.parse(path)
    with pytest.raises(HwgenError, match=r"^Precision file none\.toml cannot be read: No such"):
        Precision.parse("none.toml")
    (tmp_path / "d.json").mkdir()
    with pytest.raises(HwgenError, match="cannot be read: Is a directory"):
        Precision.parse(tmp_path / "d.json")
