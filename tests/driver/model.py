"""A small accelerator in software: registers and memory as a transport finds them.

It needs the driver and numpy alone, so that it runs in any environment that the driver runs in.
Inputs ``x`` ``(2, 2, 6)`` and ``w`` ``(3,)``; outputs ``y = -x - 1`` and ``sum``, of 16 bits, the
sum of each pixel of ``x`` and of all of ``w``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

BASE, SIZE = 0x7000_0000, 1 << 20
IDENTIFICATION = 0x1122_3344_5566_7788
CONTROL, GLOBAL, ENABLE, STATUS = 0, 4, 8, 12
START, DONE, IDLE = 1, 2, 4
NAMES = ("id_low", "id_high", "version", "errors", "reset", "frames_in", "frames_out",
         "frame_cycles", "input_waits", "input_starves", "output_waits")
WORD = 16


def _port(shape: tuple[int, ...], bits: int, lanes: int, pixels: int = 1) -> dict[str, Any]:
    size = bits // 8
    frame = int(np.prod(shape)) * size
    return {"shape": list(shape), "bits": bits, "scale": 0.5, "zero_point": 3, "lanes": lanes,
            "pixels": pixels, "element_bytes": size, "frame_bytes": frame,
            "stride": -(-frame // WORD) * WORD}


ARGUMENTS = [("frames", 32), ("address_x", 64), ("address_w", 64), ("address_y", 64),
             ("address_sum", 64), ("stride_x", 32), ("stride_w", 32), ("stride_y", 32),
             ("stride_sum", 32), ("weights", 64)]
MANIFEST: dict[str, Any] = {
    "format": "hwgen-accelerator-1", "model": "model", "board": "none", "clock_mhz": 250.0,
    "version": 1, "identification": f"{IDENTIFICATION:016x}", "word_bytes": WORD,
    "frames": "memory",
    "inputs": {"x": _port((2, 2, 6), 8, 3, 2), "w": _port((3,), 8, 1)},
    "outputs": {"y": _port((2, 2, 6), 8, 2), "sum": _port((2, 2, 1), 16, 1)},
    "arguments": {name: {"offset": 0x10 + 8 * k, "bits": bits}
                  for k, (name, bits) in enumerate(ARGUMENTS)},
    "registers": {name: 0x400 + 4 * k for k, name in enumerate(NAMES)},
    "errors": ["frame memory SLVERR", "frame memory DECERR", "frame memory time-out"],
    "memory": None, "weights": "weights.bin",
}
WEIGHTS = bytes(range(90))


def evaluate(x: np.ndarray, w: np.ndarray) -> dict[str, np.ndarray]:
    """What it is to give."""
    total = x.astype(int).sum(-1, keepdims=True) + w.astype(int).sum(-1)[:, None, None, None]
    return {"y": (-x.astype(int) - 1).astype(np.int8), "sum": total.astype(np.int16)}


class Model:
    """The accelerator, its registers, and the device's side of memory.

    Members
    -------
    memory : bytes from ``BASE`` on
    fail : what the error register says at the next run, which then does not end
    hang : runs do not end
    """

    def __init__(self, ports: Any, memory: Any = None) -> None:
        self.ports = ports
        self.memory = bytearray(SIZE) if memory is None else memory
        self.fail, self.hang = 0, False
        where = MANIFEST["registers"]
        self.where = {offset: name for name, offset in where.items()}
        self.words = dict.fromkeys(range(0, 0x1000, 4), 0)
        self.words |= {CONTROL: IDLE, where["id_low"]: IDENTIFICATION & 0xFFFFFFFF,
                       where["id_high"]: IDENTIFICATION >> 32, where["version"]: 1}

    def argument(self, name: str) -> int:
        offset = MANIFEST["arguments"][name]["offset"]
        value = self.words[offset]
        if MANIFEST["arguments"][name]["bits"] == 64:
            value |= self.words[offset + 4] << 32
        return value

    def count(self, name: str, value: int) -> None:
        self.words[MANIFEST["registers"][name]] = value

    def _rows(self, name: str, frames: int) -> tuple[int, int]:
        begin = self.argument(f"address_{name}") - BASE
        return begin, begin + frames * self.ports[name].stride

    def run(self) -> None:
        """A run, from memory to memory."""
        place = self.argument("weights") - BASE
        assert self.memory[place : place + len(WEIGHTS)] == WEIGHTS, "weights are where it is told"
        frames = self.argument("frames")
        if self.hang or self.fail:
            self.count("errors", self.fail)
            self.words[CONTROL] = START
            self.fail = 0
            return
        given = {}
        for name in ("x", "w"):
            begin, end = self._rows(name, frames)
            raw = np.frombuffer(bytes(self.memory[begin:end]), np.uint8)
            given[name] = self.ports[name].unpack(raw)
        for name, codes in evaluate(**given).items():
            begin, end = self._rows(name, frames)
            self.memory[begin:end] = self.ports[name].pack(codes).tobytes()
        for name in ("frames_in", "frames_out"):
            self.count(name, self.words[MANIFEST["registers"][name]] + frames)
        self.words[CONTROL] = DONE | IDLE
        self.words[STATUS] |= self.words[ENABLE] & 1

    def read32(self, offset: int) -> int:
        value = self.words[offset]
        if offset == CONTROL:
            self.words[CONTROL] &= ~DONE
        return value

    def write32(self, offset: int, value: int) -> None:
        name = self.where.get(offset, "")
        if offset == CONTROL:
            if value & START and self.words[CONTROL] & IDLE:
                self.run()
        elif offset == STATUS:
            self.words[STATUS] ^= value
        elif name == "reset":
            for each in NAMES[3:]:
                self.count(each, 0)
            self.words[CONTROL] = IDLE
        elif not name:
            self.words[offset] = value
