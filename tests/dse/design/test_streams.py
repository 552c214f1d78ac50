"""Lanes and pixels a beat: the fewest that do, and only where windows can take them."""

from __future__ import annotations

import pytest

from hwgen.dse.design.streams import Streams
from tests.networks import Builder


def stem(size: int = 32, cout: int = 16):
    b = Builder((size, size, 3))
    x = b.act(b.conv("image", cout, 3, "c0", stride=2), "s0")
    y = b.conv(x, cout, 3, "dw", groups=cout)
    b.graph.outputs = [b.conv(y, 10, 1, "head")]
    return b.graph


@pytest.mark.parametrize("interval, image", [
    (3072, (1, 1)), (3071, (3, 1)), (1024, (3, 1)), (1023, (3, 2)), (512, (3, 2)), (256, (3, 4)),
])
def test_fewest_lanes_and_then_pixels(interval: int, image: tuple[int, int]) -> None:
    graph = stem()
    found = Streams(graph).choose(interval, pairs=False)
    assert found is not None
    lanes, pixels = found
    assert (lanes["image"], pixels["image"]) == image
    for name, type in graph.types.items():
        assert type.size <= interval * lanes[name] * pixels[name]
        assert type.channels % lanes[name] == 0
        assert type.spatial[-1] % pixels[name] == 0
    # Tensors at a table have the same of both.
    assert (lanes["c0"], pixels["c0"]) == (lanes["s0"], pixels["s0"])


def test_outputs_come_one_pixel_a_beat() -> None:
    graph = stem()
    streams = Streams(graph)
    assert streams.least_interval() == 256
    assert streams.choose(256, pairs=False) is not None
    assert streams.choose(255, pairs=False) is None


def test_depthwise_convolutions_compute_pairs() -> None:
    graph = stem()
    alone, paired = (Streams(graph).choose(4096, pairs) for pairs in (False, True))
    assert alone is not None
    assert paired is not None
    assert set(alone.pixels.values()) == {1}
    assert {name for name, n in paired.pixels.items() if n == 2} == {"dw"}


def test_no_pairs_where_the_width_is_odd() -> None:
    found = Streams(stem(30)).choose(4096, pairs=True)
    assert found is not None
    assert set(found.pixels.values()) == {1}
