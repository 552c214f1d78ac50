"""A few of the random networks of the benchmark: value, time and liveness of their Verilog."""

import pytest

from benchmarks.random_networks import check, drawn

pytestmark = pytest.mark.verilator

CASES = [case for case in drawn(12) if len(case[0].nodes) > 3][:3]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_verilog_is_right_and_on_time(number):
    assert check(*CASES[number]) == ""
