"""The smallest network of the zoo in Verilator; the benchmark has the rest."""

from argparse import Namespace

import pytest

from benchmarks.zoo import run

pytestmark = pytest.mark.verilator


def test_verilog_is_right_and_on_time(capsys):
    options = Namespace(size=None, layers=None, precision="w8a8", interval=0)
    assert run("resnet8", options) == 0
    line = capsys.readouterr().out.split()
    assert line[0] == "resnet8"
    # Mismatches; then interval and latency, each simulated and predicted.
    assert line[5] == "0"
    assert line[6] == line[7]
    assert line[8] == line[9]
