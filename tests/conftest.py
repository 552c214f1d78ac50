"""Settings of all tests.

:mod:`tests.profiles` says how many random examples are tried: ``HYPOTHESIS_PROFILE`` is ``quick``,
``ci`` (the default, repeatable) or ``thorough``.  Markers (``pytest --markers``) say what a test
needs; ``make quick`` leaves out those with any of them.
"""

from tests.profiles import PROFILE


def pytest_report_header() -> str:
    return f"profile of random examples: {PROFILE}"
