"""The road in: options are called as on the command line, and none is ignored."""

import inspect
from pathlib import Path

import pytest

from hwgen.build import _parser
from hwgen.errors import HwgenError
from hwgen.models.load import read


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
    ({"outputs": ["y"]}, "Outputs"),
])
def test_nothing_is_done_to_an_integer_graph(given, what):
    message = rf"^{what} would have no effect on graph\.npz, which is integer already$"
    with pytest.raises(HwgenError, match=message):
        read("graph.npz", **given)


def test_weights_of_a_file():
    with pytest.raises(HwgenError, match=r"^Weights go with a zoo model: net\.onnx has its own$"):
        read("net.onnx", weights=Path("w.pt"))
