"""What a driver may have to say."""

from __future__ import annotations

__all__ = ["AcceleratorError", "DriverError", "StuckError", "WrongBitstreamError"]


class DriverError(Exception):
    """Something that was given is wrong, or the device does not do what it should."""


class WrongBitstreamError(DriverError):
    """The device holds another design than the files say."""


class AcceleratorError(DriverError):
    """The accelerator saw an error.

    Members
    -------
    causes : what its error register says, in words
    """

    def __init__(self, causes: tuple[str, ...], what_now: str) -> None:
        self.causes = causes
        super().__init__(f"The accelerator reports {', '.join(causes)}: {what_now}")


class StuckError(DriverError):
    """A run does not end."""
