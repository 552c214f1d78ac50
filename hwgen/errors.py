"""The one exception family of the project.

``hwgen.build`` turns every :class:`HwgenError` into one line and exit status 2; anything else that
escapes is a bug.  The message names the thing that is wrong and the way out.
"""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["HwgenError", "HwgenWarning", "named_reason", "naming", "reason"]


class HwgenError(ValueError):
    """Something the user can mend: a file, an option, a shape, a relation between parameters."""


class HwgenWarning(UserWarning):
    """Something that is done as asked, but is hardly what the user wants.

    Library code warns with :func:`warnings.warn`; ``hwgen.build`` shows each in a line, and lists
    them in the report.
    """


def reason(error: OSError) -> str:
    """What the system says of a fault; never nothing."""
    return error.strerror or str(error) or type(error).__name__


def named_reason(error: OSError) -> str:
    """What the system says of a fault, behind the name of the file if it says which one it is."""
    return reason(error) if error.filename is None else f"{error.filename}: {reason(error)}"


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Put the name of a thing in front of what is wrong with it."""
    try:
        yield
    except HwgenError as error:
        raise HwgenError(f"{what}: {error}") from None
