"""Which parts of a region of memory are taken."""

from __future__ import annotations

from .errors import DriverError

__all__ = ["PAGE", "Places"]

PAGE = 4096


class Places:
    """Hands out pages of a region, the first that fit.

    Parameters
    ----------
    base, size : where the region begins, and its bytes
    """

    def __init__(self, base: int, size: int) -> None:
        self._free = [(base, size // PAGE * PAGE)]

    @staticmethod
    def _whole(size: int) -> int:
        return -(-max(size, 1) // PAGE) * PAGE

    def take(self, size: int) -> int:
        """Address of ``size`` bytes.

        Raises
        ------
        :exc:`DriverError`
            If there is no room.
        """
        wanted = self._whole(size)
        for k, (address, room) in enumerate(self._free):
            if room >= wanted:
                self._free[k : k + 1] = [(address + wanted, room - wanted)] if room > wanted else []
                return address
        left = max((room for _, room in self._free), default=0)
        raise DriverError(f"There is no memory for {size} bytes; {left} are left in one piece: "
                          f"run fewer frames at once, or reserve more")

    def give(self, address: int, size: int) -> None:
        """Take back what :meth:`take` gave."""
        merged: list[tuple[int, int]] = []
        for begin, room in sorted([*self._free, (address, self._whole(size))]):
            if merged and sum(merged[-1]) == begin:
                merged[-1] = (merged[-1][0], merged[-1][1] + room)
            else:
                merged.append((begin, room))
        self._free = merged
