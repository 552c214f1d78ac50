"""How many random examples a test tries: the profiles of Hypothesis, and the decorator for tests.

``HYPOTHESIS_PROFILE`` chooses one of

- ``quick``: a few examples each, the same in every run, for the loop at the desk (``make quick``);
- ``ci``: as many as a test asks for, the same in every run; the default;
- ``thorough``: ten times as many, different in every run; a failure prints how to repeat it.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

SHARES = {"quick": 0.04, "ci": 1.0, "thorough": 10.0}
"""Examples, as a share of what a test asks for."""
LEAST = 2
"""Examples that are tried at least."""
USUAL = 100
"""Examples of a test that does not say how many; Hypothesis's own number."""


def scaled(count: int, profile: str) -> int:
    """The number of examples in a profile, for a test that asks for ``count``."""
    return max(round(count * SHARES[profile]), LEAST)


for _name in SHARES:
    settings.register_profile(
        _name, derandomize=_name != "thorough", print_blob=_name == "thorough", deadline=None,
        database=None, suppress_health_check=[HealthCheck.too_slow],
        max_examples=scaled(USUAL, _name),
    )
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
if PROFILE not in SHARES:
    raise ValueError(f"HYPOTHESIS_PROFILE must be one of {', '.join(SHARES)}, not {PROFILE!r}")
settings.load_profile(PROFILE)


def examples(count: int) -> settings:
    """Decorator of a test that wants ``count`` examples, more or fewer by the profile."""
    return settings(max_examples=scaled(count, PROFILE))
