"""A stop signal that needs no database, no lock and no message: one shared byte and one pipe."""

from __future__ import annotations

import contextlib
import mmap
import os


class StopSignal:
    """Tells executors, in this process and in every child forked after it was made, to stop.

    Make it before the first fork. The byte lives in an anonymous shared mapping, so that setting it anywhere is seen
    everywhere; the pipe's read end becomes readable when it is set and stays so, since nobody reads from it. A loop
    can therefore wait for it together with its other descriptors, and ends within milliseconds.

    Processes that do not inherit memory and descriptors (``spawn``) cannot share one.
    """

    def __init__(self) -> None:
        self._flag = mmap.mmap(-1, mmap.PAGESIZE)
        self._reader, self._writer = os.pipe()
        # A full pipe must never block whoever sets the signal: one byte in it is all that is needed.
        os.set_blocking(self._writer, False)

    def set(self) -> None:
        """Set the signal, for good. Safe in a signal handler and from any thread or process that shares it."""
        if self._flag[0]:
            return
        self._flag[0] = 1
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b"\0")

    def is_set(self) -> bool:
        """Whether anyone has set it."""
        return self._flag[0] != 0

    def fileno(self) -> int:
        """The descriptor that is readable once the signal is set; for ``poll`` and ``select``, not for reading."""
        return self._reader

    def close(self) -> None:
        """Free the mapping and the pipe of this process; others that share them keep theirs."""
        if not self._flag.closed:
            self._flag.close()
            os.close(self._reader)
            os.close(self._writer)
