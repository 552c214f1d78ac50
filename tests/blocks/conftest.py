"""A block that is stuck is found soon."""

from collections.abc import Iterator

import pytest

from hwgen.sim.amaranth import streams


@pytest.fixture(scope="module", autouse=True)
def short_patience() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "IDLE_LIMIT", 5000)
        yield
