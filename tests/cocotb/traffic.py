"""Clients of an AxiPort, what they ask for, and what is then true; for any simulator."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hwgen.offchip.bus import AxiConfig
from tests.cocotb.rules import PAGE

Request = tuple[int, int]
"""Address and bytes."""


@dataclass
class Client:
    """Asks for requests, and offers or collects their words.

    ``pause``: how often it waits before a request; ``gap``: how often it withholds a word.
    """

    requests: list[Request]
    words: list[int] = field(default_factory=list)
    pause: float = 0.0
    gap: float = 0.0
    done: int = 0
    asked: int = 0
    came: list[int] = field(default_factory=list)
    given: int = 0
    offers: bool = False
    shows: bool = False

    def again(self) -> None:
        """As it was at first, after a reset."""
        self.done = self.asked = self.given = 0
        self.came = []
        self.offers = self.shows = False


def writer(
    axi: AxiConfig, requests: list[Request], random: np.random.Generator, **options
) -> Client:
    """A client that writes random words."""
    count = sum(axi.words(n) for _, n in requests)
    size = axi.word_bytes
    return Client(requests, [int.from_bytes(random.bytes(size), "little") for _ in range(count)],
                  **options)


def words_at(axi: AxiConfig, client: Client, contents: bytes) -> list[int]:
    """What a client should read."""
    size = axi.word_bytes
    return [
        int.from_bytes(contents[address + k * size : address + (k + 1) * size], "little")
        for address, n in client.requests for k in range(axi.words(n))
    ]


def write_all(axi: AxiConfig, client: Client, contents: bytearray) -> None:
    """What a client should write."""
    words = iter(client.words)
    for address, n in client.requests:
        raw = b"".join(next(words).to_bytes(axi.word_bytes, "little") for _ in range(axi.words(n)))
        contents[address : address + n] = raw[:n]


def random_requests(
    axi: AxiConfig, random: np.random.Generator, count: int, start: int, size: int,
    longest: int = 600,
) -> list[Request]:
    """Within a region: short ones, longer ones, and some that just cross the first page."""
    requests = []
    for _ in range(count):
        n = int(random.choice([
            random.integers(1, 2 * axi.word_bytes + 1), random.integers(1, longest + 1)
        ]))
        address = int(random.integers(0, size - n - axi.word_bytes))
        if random.random() < 0.3:
            address = max(PAGE - int(random.integers(1, n + 1)), 0)
        requests.append((start + address // axi.word_bytes * axi.word_bytes, n))
    return requests
