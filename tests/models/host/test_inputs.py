"""What the host does in front of the accelerator, as ``pre.json`` says it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from hwgen.errors import HwgenError, HwgenWarning
from hwgen.models.host.inputs import Input, described, load, network, save
from hwgen.models.load import read
from tests.models.host.test_model import CONV, C, file

GIVEN = Input("x", "x", (1, 3, 4, 5), 1, (4, 5, 3), 0.02, -15, 8, pixels=False,
              mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
LOW, HIGH = (-128 + 15) * 0.02, (127 + 15) * 0.02


def test_codes_clip_with_a_warning() -> None:
    """Half a step beyond the last code is that code still."""
    assert GIVEN.range == pytest.approx((LOW, HIGH))
    frames = np.linspace(LOW - 0.009, HIGH + 0.009, 60).reshape(1, 3, 4, 5)
    codes = GIVEN.codes(frames)
    assert codes.shape == (1, 4, 5, 3)
    assert (codes.min(), codes.max()) == (-128, 127)
    with pytest.warns(HwgenWarning, match=r"Input 'x': 52 % of the values are clipped, because "
                                          r"they go from .* to .*, and codes from -2.26 to 2.84"):
        GIVEN.codes(frames * 2)


@pytest.mark.parametrize("frames, message", [
    (np.zeros((1, 3, 4, 5), np.uint8), r"not uint8: \(pixels / 255 - mean\) / std$"),
    (np.zeros((1, 3, 5, 4)), r"takes frames of shape \(3, 4, 5\)"),
    (np.full((1, 3, 4, 5), np.nan), "hold NaN, infinity"),
    (np.full((1, 3, 4, 5), 1e300), "or what float32 does not hold"),
])
def test_refused(frames: np.ndarray, message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        GIVEN.codes(frames)


def test_file(tmp_path: Path) -> None:
    save([GIVEN], tmp_path / "pre.json")
    assert load(tmp_path / "pre.json") == [GIVEN]
    assert network([GIVEN]).normalised["x"].mean == GIVEN.mean
    # A file of before there was a normalisation has none.
    body = json.loads((tmp_path / "pre.json").read_text())
    del body["inputs"][0]["mean"], body["inputs"][0]["std"]
    (tmp_path / "pre.json").write_text(json.dumps(body))
    assert load(tmp_path / "pre.json") == [dataclasses.replace(GIVEN, mean=(), std=())]


@pytest.mark.parametrize("calibrate", ["minmax", "mse"])
def test_every_pixel_has_a_code(calibrate: str, tmp_path: Path) -> None:
    """Whatever pixels the calibration saw, and with as many bits as images have."""
    np.save(tmp_path / "grey.npy", np.full((1, 3, 8, 8), -0.1, np.float32))
    source = read(str(file(tmp_path, [CONV], C, ("c",))), mean=GIVEN.mean, std=GIVEN.std,
                  calibration=tmp_path / "grey.npy", calibrate=calibrate, precision="w4a4")
    (given,) = described(source.graph, source.network)
    assert (given.mean, given.std, given.bits) == (GIVEN.mean, GIVEN.std, 8)
    pixels = np.broadcast_to(np.arange(256).reshape(4, 1, 8, 8) / 255, (4, 3, 8, 8))
    frames = network([given]).normalised["x"].apply(pixels, 1)
    assert given.codes(frames).min() == -128
    assert abs(given.type.quantisation.dequantise(given.codes(frames))
               - np.moveaxis(frames, 1, -1)).max() < given.scale * 0.51
