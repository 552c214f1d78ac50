"""Ranges that calibration finds, and what is said where it found none."""

import pytest

from hwgen.errors import HwgenWarning
from hwgen.models.frames import samples
from hwgen.models.lowering import lower
from hwgen.models.quantisation.calibrate import statistics
from tests.models.float_networks import N, constants_of, network


def test_difference_of_two_inputs_has_a_range():
    """Siamese networks: both inputs saw the same picture once, and nothing was left of it."""
    net = network(
        [N("Conv", ["a", "w"], ["f"]), N("Conv", ["b", "w"], ["g"]), N("Sub", ["f", "g"], ["d"]),
         N("Abs", ["d"], ["y"])],
        constants_of(w=(4, 3, 3, 3)), {"a": (1, 3, 12, 12), "b": (1, 3, 12, 12)})
    low, high = statistics(net, samples.calibration(net)).ranges["y"]
    assert high - low > 0.1


def test_a_range_of_nothing_is_a_warning():
    net = network([N("Conv", ["x", "w"], ["y"])], constants_of(w=(4, 3, 3, 3)))
    with pytest.warns(HwgenWarning, match=r"^Tensor 'y' is 0 in all frames of the calibration"):
        lower(net, {"x": (0.0, 1.0), "y": (0.0, 0.0)})
