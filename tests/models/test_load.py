"""The road in: options are called as on the command line, and none is ignored."""

import inspect
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from hwgen.build import _parser
from hwgen.errors import HwgenError, HwgenWarning
from hwgen.models.load import read
from tests.models.host.test_model import CONV, C, file


def test_options_are_those_of_the_command_line():
    options = {action.dest: action.default for action in _parser()._actions}
    for name, parameter in inspect.signature(read).parameters.items():
        if name not in ("model", "progress"):
            assert parameter.default == options[name]


@pytest.mark.parametrize("given, what", [
    ({"size": 8}, "Size"), ({"weights": Path("w.pt")}, "Weights"),
    ({"calibration": Path("f.npy")}, "Calibration"), ({"calibrate": "mse"}, "Calibration method"),
    ({"equalise": True}, "Equalisation"), ({"correct_bias": True}, "Bias correction"),
    ({"precision": "w4a8"}, "Precision"), ({"decomposition": Path("d.json")}, "Decomposition"),
    ({"outputs": ["y"]}, "Outputs"), ({"mean": [0.5]}, "Normalisation"),
    ({"std": [0.5]}, "Normalisation"),
])
def test_nothing_is_done_to_an_integer_graph(given, what):
    message = rf"^{what} would have no effect on graph\.npz, which is integer already$"
    with pytest.raises(HwgenError, match=message):
        read("graph.npz", **given)


@pytest.mark.parametrize("low, high, options, message", [
    (0, 255, {}, (r"go from 0 to 255, as pixels do, but images are .* as pixel / 255: scale .*, or "
                 r"give mean 0 and std 0\.00392157")),
    (0, 255, {"mean": [0.5], "std": [0.5]}, r"as pixels do, but .* to the network as normalised"),
    (0, 1, {"mean": [0.5], "std": [0.5]}, (r"go from 0 to 1, as images do before they .*: "
                                         r"give images, or arrays normalised by mean 0.5,0.5,0.5")),
    (0, 255, {"std": [1 / 255]}, None), (0, 1, {}, None), (-1, 1, {}, None), (0, 3, {}, None),
    (-2, 2, {"mean": [0.5], "std": [0.5]}, None), (0, 1000, {}, None),
])
def test_arrays_that_are_scaled_as_images_are_not(low, high, options, message, tmp_path):
    np.save(tmp_path / "a.npy", np.linspace(low, high, 3 * 64, dtype=np.float32).reshape(3, 8, 8))
    path = str(file(tmp_path, [CONV], C, ("c",)))
    with pytest.warns(HwgenWarning, match=message) if message else nullcontext():
        read(path, calibration=tmp_path / "a.npy", **options)


def test_the_zoo_normalises_its_images_itself():
    with pytest.raises(HwgenError, match=r"^resnet8 takes images in 0\.\.1 and normalises them"):
        read("resnet8", mean=[0.5])


def test_weights_of_a_file():
    with pytest.raises(HwgenError, match=r"^Weights go with a zoo model: net\.onnx has its own$"):
        read("net.onnx", weights=Path("w.pt"))
