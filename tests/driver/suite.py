"""What must hold through every transport that has a :class:`tests.driver.model.Model` behind it."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.driver.model import MANIFEST, evaluate


@contextmanager
def raises(kind: type[Exception], message: str):
    """The error, with a message that matches; without pytest, which not every environment has."""
    said = None
    try:
        yield
    except kind as error:
        said = str(error)
    assert said is not None, f"no {kind.__name__}"
    assert re.search(message, said), said


def frames(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.integers(-128, 128, (count, *each["shape"])).astype(np.int8)
            for name, each in MANIFEST["inputs"].items()}


def check(accelerator: Any, count: int, seed: int = 0, **options: Any) -> None:
    """Codes of a run."""
    given = frames(count, seed)
    found = accelerator.run(given, codes=True, **options)
    for name, wanted in evaluate(**given).items():
        np.testing.assert_array_equal(found[name], wanted)
        assert found[name].dtype == wanted.dtype


def check_all(driver: Any, build: Path, transport: Callable[[], tuple[Any, Any]]) -> None:
    """Frames, batches, many runs, errors and what follows them.

    Parameters
    ----------
    driver : the module
    build : where ``accelerator.json`` is
    transport : makes a transport, and the model behind it
    """
    made, model = transport()
    with driver.Accelerator(build, made, timeout=0.5) as accelerator:
        for count, batch in ((5, None), (1, None), (7, 2), (0, None), (4, 100)):
            check(accelerator, count, count, batch=batch)
        assert accelerator.status()["frames_out"] == 17
        assert [run.result()["y"].shape for run in
                [accelerator.run_async(frames(k)) for k in range(3)]] == [
            (k, 2, 2, 6) for k in range(3)]
        for seed in range(30):
            check(accelerator, 60, seed)
        values = accelerator.run({"x": np.full((1, 2, 2, 6), 1e9), "w": np.zeros((1, 3))})
        assert (values["y"] == (-128 - 3) * 0.5).all()
        assert accelerator.errors == ()
        assert accelerator.clock_mhz == 250.0

        model.fail = 0b101
        with raises(driver.AcceleratorError, "^The accelerator reports frame memory SLVERR, frame "
                                             "memory time-out: the frames of this run are lost"):
            check(accelerator, 3)
        assert accelerator.errors == ()
        check(accelerator, 3)
        model.hang = True
        with raises(driver.StuckError, "^A run of 2 frames did not end within 0.5 s: 0 went in"):
            check(accelerator, 2)
        model.hang = False
        check(accelerator, 3)
        with raises(driver.DriverError, "There is no memory|has no memory|does not give"):
            accelerator.run({k: np.repeat(v, 50_000, 0) for k, v in frames(1).items()},
                            batch=50_000)
        check(accelerator, 3)
