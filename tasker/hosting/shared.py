"""A number that a worker's main process and all processes of its pool see."""

from __future__ import annotations

import mmap


class SharedByte:
    """One byte in an anonymous shared mapping, made before the first fork: 0 to 255, at first 0."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    @property
    def value(self) -> int:
        """What it is now."""
        return self._memory[0]

    @value.setter
    def value(self, value: int) -> None:
        self._memory[0] = value
