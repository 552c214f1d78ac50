"""``python -m hwgen``, and the command ``hwgen``: :mod:`hwgen.build`, ended well from the first."""

from __future__ import annotations

import sys

from hwgen.interrupt import end_at_once


def main() -> int:
    """Run the command line; see :func:`hwgen.build.main`."""
    end_at_once()
    from hwgen import build

    return build.main()


if __name__ == "__main__":
    sys.exit(main())
