"""The smallest network of the zoo in Verilator; the benchmark has the rest."""

import pytest

from benchmarks.zoo import run

pytestmark = pytest.mark.verilator


def test_verilog_is_right_and_on_time(capsys):
    assert run("resnet8", 0) == 0
    line = capsys.readouterr().out.split()
    assert line[0] == "resnet8"
    # Mismatches; then interval and latency, each simulated and predicted.
    assert line[3] == "0"
    assert line[4] == line[5]
    assert line[6] == line[7]
