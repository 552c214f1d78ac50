"""The accelerator as software sees it: frames in, results out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .errors import AcceleratorError, DriverError, StuckError, WrongBitstreamError
from .manifest import Manifest, Port
from .transport import Buffer, Transport

__all__ = ["Accelerator"]

CONTROL, GLOBAL_INTERRUPT, INTERRUPT_ENABLE, INTERRUPT_STATUS = 0x00, 0x04, 0x08, 0x0C
START, DONE, IDLE = 1, 2, 4
ERROR_INTERRUPT = 4
WORD = 0xFFFFFFFF
RESET_SECONDS = 60.0
"""Seconds for a soft reset, at least: the hardware waits 2**17 cycles for a memory that is dead."""
BATCH_BYTES = 1 << 22
"""Bytes of frames and results that a run has in memory, unless it is told how many frames."""

Frames = np.ndarray | Mapping[str, np.ndarray]
Results = np.ndarray | dict[str, np.ndarray]


class Accelerator:
    """An accelerator, from a build with ``--shell``.

    Parameters
    ----------
    build : the build's directory, or its ``accelerator.json``
    transport : how the device is reached; it belongs to the accelerator, which closes it, also if
        it cannot be made
    timeout : seconds without an end after which a run counts as stuck

    Members
    -------
    manifest : ``Manifest``, what the build says
    inputs, outputs : name to ``Port``

    Raises
    ------
    :exc:`WrongBitstreamError`
        If the device holds another design.
    :exc:`DriverError`
        If a file of the build is missing, or the device cannot be reached.
    """

    def __init__(self, build: str | Path, transport: Transport, *, timeout: float = 60.0) -> None:
        self.transport, self.timeout = transport, timeout
        self._buffers: list[Buffer] = []
        self._pool: ThreadPoolExecutor | None = None
        # Frames of runs that ended well, since the last reset.
        self._done = 0
        try:
            self.manifest = Manifest.load(build)
            if self.manifest.data["frames"] != "memory":
                raise DriverError(f"{build} takes frames from {self.manifest.data['frames']}: this "
                                  f"driver needs a build with --shell memory")
            self._check()
            self.reset()
            for name in ("weights", "memory"):
                self._place(name)
            transport.write32(INTERRUPT_ENABLE, 1 | ERROR_INTERRUPT)
            transport.write32(GLOBAL_INTERRUPT, 1)
        except DriverError:
            self.close()
            raise

    def __enter__(self) -> Accelerator:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @property
    def inputs(self) -> dict[str, Port]:
        return self.manifest.inputs

    @property
    def outputs(self) -> dict[str, Port]:
        return self.manifest.outputs

    def close(self) -> None:
        """Give back memory and device; runs that were asked for come to their end."""
        if self._pool is not None:
            self._pool.shutdown()
        for buffer in self._buffers:
            self.transport.free(buffer)
        self._buffers.clear()
        self.transport.close()

    # Registers

    def _read(self, name: str) -> int:
        return self.transport.read32(self.manifest.register(name))

    def _argument(self, name: str, value: int) -> None:
        offset, bits = self.manifest.argument(name)
        for k in range(bits // 32):
            self.transport.write32(offset + 4 * k, (value >> (32 * k)) & WORD)

    def _check(self) -> None:
        version, wanted = self._read("version"), self.manifest.data["version"]
        found = self._read("id_low") | self._read("id_high") << 32
        if found != self.manifest.identification:
            raise WrongBitstreamError(
                f"The device says it is {found:016x}, {self.manifest.folder} is "
                f"{self.manifest.identification:016x}: load the bitstream of this build")
        if version != wanted:
            raise WrongBitstreamError(f"The device has registers of version {version}, this build "
                                      f"of {wanted}")

    def _place(self, name: str) -> None:
        """Put a file of the build where the accelerator looks for it."""
        entry = self.manifest.data[name]
        if entry is None:
            return
        image = self.manifest.image(name)
        size = entry["bytes"] if isinstance(entry, dict) else len(image)
        buffer = self._allocate(max(size, len(image)))
        buffer.array[: len(image)] = np.frombuffer(image, np.uint8)
        self.transport.flush(buffer)
        self._argument(name, buffer.address)

    def _allocate(self, size: int) -> Buffer:
        # Reads are of whole words, and may go a word beyond the end.
        buffer = self.transport.allocate(size + self.manifest.data["word_bytes"])
        self._buffers.append(buffer)
        return buffer

    def reset(self) -> None:
        """Soft reset: whatever was under way is given up, and counters and errors are cleared.

        Raises
        ------
        :exc:`StuckError`
            If it does not end.
        """
        self.transport.write32(self.manifest.register("reset"), 1)
        self._done = 0
        until = time.monotonic() + max(self.timeout, RESET_SECONDS)
        while self._read("reset"):
            if time.monotonic() > until:
                raise StuckError("A soft reset does not end: reset the board")
            self.transport.wait(0.001)
        if waiting := self.transport.read32(INTERRUPT_STATUS):
            self.transport.write32(INTERRUPT_STATUS, waiting)

    @property
    def errors(self) -> tuple[str, ...]:
        """What the error register says, in words; empty if all is well."""
        bits = self._read("errors")
        return tuple(text for k, text in enumerate(self.manifest.data["errors"]) if bits >> k & 1)

    @property
    def clock_mhz(self) -> float:
        """The clock that is set, or that of the build where nobody knows."""
        real = self.transport.clock_mhz()
        return self.manifest.data["clock_mhz"] if real is None else real

    def status(self) -> dict[str, int]:
        """Counters since the last reset: frames, cycles of the last one, cycles of standing still.

        ``input_waits`` counts cycles in which the accelerator did not take, ``input_starves`` those
        in which memory had nothing for it, ``output_waits`` those in which memory did not take.
        """
        names = ("frames_in", "frames_out", "frame_cycles", "input_waits", "input_starves",
                 "output_waits")
        return {name: self._read(name) for name in names}

    # Frames

    def run(
        self, frames: Frames, *, codes: bool = False, batch: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Results:
        """Run frames.

        Parameters
        ----------
        frames : ``(N, *shape)``, channels last; by name if there are several inputs
            Floats are what the network takes; integers are codes.
        codes : give codes, and not what they stand for
        batch : frames that go at once; default: as many as a few megabytes hold
        progress : called with the frames that are done, and with N

        Returns
        -------
        The outputs ``(N, *shape)``; by name if there are several.

        Raises
        ------
        :exc:`AcceleratorError`
            If the accelerator reports an error: nothing is returned, and it has been reset.
        :exc:`StuckError`
            If it does not come to an end; it has been reset.
        :exc:`DriverError`
            If frames are not as the network takes them.
        """
        given = self._coded(frames)
        count = len(next(iter(given.values())))
        bytes_each = sum(p.stride for p in (*self.inputs.values(), *self.outputs.values()))
        if batch is None:
            batch = BATCH_BYTES // bytes_each
        elif batch < 1:
            raise DriverError(f"A batch must be of 1 frame or more, not {batch}")
        batch = max(1, min(batch, count))
        buffers: dict[str, Buffer] = {}
        results: dict[str, list[np.ndarray]] = {name: [] for name in self.outputs}
        try:
            for name, port in (*self.inputs.items(), *self.outputs.items()):
                buffers[name] = self.transport.allocate(batch * port.stride)
            for begin in range(0, count, batch):
                end = min(begin + batch, count)
                for name, port in self.inputs.items():
                    raw = port.pack(given[name][begin:end]).ravel()
                    buffers[name].array[: raw.size] = raw
                    self.transport.flush(buffers[name])
                self._go(end - begin, buffers)
                for name, port in self.outputs.items():
                    self.transport.invalidate(buffers[name])
                    raw = buffers[name].array[: (end - begin) * port.stride]
                    results[name].append(port.unpack(raw))
                if progress is not None:
                    progress(end, count)
        finally:
            for buffer in buffers.values():
                self.transport.free(buffer)
        whole = {}
        for name, port in self.outputs.items():
            made = results[name] or [np.zeros((0, *port.shape), port.dtype)]
            joined = np.concatenate(made)
            whole[name] = joined if codes else port.values(joined)
        return whole if len(whole) > 1 else next(iter(whole.values()))

    def run_async(self, frames: Frames, **options) -> Future[Results]:
        """The same in the background, run after run in the order in which they were asked for."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "accelerator")
        return self._pool.submit(self.run, frames, **options)

    def _coded(self, frames: Frames) -> dict[str, np.ndarray]:
        """Codes by input."""
        if not isinstance(frames, Mapping):
            if len(self.inputs) > 1:
                raise DriverError(f"There are several inputs: give frames by name "
                                  f"({', '.join(self.inputs)})")
            frames = {next(iter(self.inputs)): frames}
        if set(frames) != set(self.inputs):
            raise DriverError(f"Frames must be given for {', '.join(self.inputs)}, not for "
                              f"{', '.join(frames) or 'nothing'}")
        given = {name: port.codes(frames[name]) for name, port in self.inputs.items()}
        if len({len(each) for each in given.values()}) > 1:
            raise DriverError("All inputs must have as many frames")
        return given

    def _go(self, count: int, buffers: Mapping[str, Buffer]) -> None:
        """One run of the hardware."""
        self._argument("frames", count)
        for name, buffer in buffers.items():
            self._argument(f"address_{name}", buffer.address)
        self.transport.write32(CONTROL, START)
        until = time.monotonic() + self.timeout
        while not self.transport.read32(CONTROL) & DONE:
            if causes := self.errors:
                self.reset()
                raise AcceleratorError(causes, "the frames of this run are lost, and it was reset; "
                                               "check addresses and memory")
            if time.monotonic() > until:
                status = self.status()
                into, out = (status[f"frames_{way}"] - self._done & WORD for way in ("in", "out"))
                self.reset()
                raise StuckError(
                    f"A run of {count} frames did not end within {self.timeout:g} s: "
                    f"{into} went in and {out} came out; it was reset")
            self.transport.wait(0.01)
        self._done += count
        if waiting := self.transport.read32(INTERRUPT_STATUS):
            self.transport.write32(INTERRUPT_STATUS, waiting)
