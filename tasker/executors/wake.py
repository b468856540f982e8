"""A pipe that wakes a thread which waits in ``poll`` for several things at once."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Sequence
from typing import Protocol


class HasFileno(Protocol):
    """Anything that ``poll`` can wait for."""

    def fileno(self) -> int:
        """The descriptor to wait for."""
        ...


class Raised(HasFileno, Protocol):
    """A signal that can be looked at and waited for; ``StopSignal`` is one."""

    def is_set(self) -> bool:
        """Whether it was raised."""
        ...


class WakePipe:
    """Many writers, one waiting thread. Several wakes before the reader looks count as one."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        # Guards the descriptors against use after close; a wake from a listener may come at any time.
        self._lock = threading.Lock()
        self._closed = False
        self._pending = False

    def wake(self) -> None:
        """End the reader's present or next wait. Safe from any thread; does nothing once the pipe is closed."""
        with self._lock:
            if self._closed or self._pending:
                return
            self._pending = True
            with contextlib.suppress(BlockingIOError):
                os.write(self._writer, b"\0")

    def clear(self) -> None:
        """Forget the wakes so far. The reader calls it before it looks for what it was woken for."""
        with self._lock:
            if self._closed or not self._pending:
                return
            self._pending = False
            with contextlib.suppress(BlockingIOError):
                os.read(self._reader, 64)

    def fileno(self) -> int:
        """The descriptor that is readable after ``wake``."""
        return self._reader

    def close(self) -> None:
        """Free the descriptors. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._reader)
                os.close(self._writer)


def wait_readable(sources: Sequence[HasFileno], timeout_seconds: float | None) -> bool:
    """Wait until one of ``sources`` is readable; whether one was before ``timeout_seconds`` passed.

    ``poll`` and not ``select``: a worker may well have descriptors above 1023.
    """
    poller = select.poll()
    for source in sources:
        poller.register(source.fileno(), select.POLLIN)
    # Rounded up: a wait that ends a fraction of a millisecond early would make the caller spin.
    timeout = None if timeout_seconds is None else max(0, -int(-timeout_seconds * 1000 // 1))
    return bool(poller.poll(timeout))
