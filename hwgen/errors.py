"""The one exception family of the project.

``hwgen.build`` turns every :class:`HwgenError` into one line and exit status 2; anything else that
escapes is a bug.  The message names the thing that is wrong and the way out.
"""

__all__ = ["HwgenError"]


class HwgenError(ValueError):
    """Something the user can mend: a file, an option, a shape, a relation between parameters."""
