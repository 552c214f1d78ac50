"""A few of the random files of the benchmark: accelerator and host give what the file gives."""

import pytest

from benchmarks.random_files import check

pytestmark = pytest.mark.network


@pytest.mark.parametrize("seed", range(1000, 1040))
def test_random_file(seed):
    assert check(seed) == ""
