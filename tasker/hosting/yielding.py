"""Asking one of several executors, whichever looks first, to give its worker slot to an ordinary task."""

from __future__ import annotations

import contextlib
import os

from tasker.hosting.shared import SharedByte


class YieldPipe:
    """Requests to yield, as bytes in a pipe that is made before the first fork and shared by all executors.

    The worker's main process asks, and may take a request back that nobody has taken. Each byte is read by exactly one
    executor, so one request frees one slot, in whichever process its taker lives. ``ask_all`` raises a shared number
    instead, which all executors that run by then see. While the worker is drained, executors yield as soon as they
    look, those too that begin only then.
    """

    def __init__(self) -> None:
        self._generation = SharedByte()
        self._drained = SharedByte()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def ask(self) -> None:
        """Ask one executor to yield."""
        with contextlib.suppress(BlockingIOError):  # a full pipe asks thousands already
            os.write(self._writer, b"y")

    def ask_all(self) -> None:
        """Ask all executors that run now. A request is left in the pipe, so that they look; withdraw it later."""
        self._generation.value = (self._generation.value + 1) % 256
        self.ask()

    @property
    def drained(self) -> bool:
        """Whether the worker is to host no executors at present."""
        return self._drained.value != 0

    def drain(self) -> None:
        """Ask all executors, also those to come, until ``resume``."""
        self._drained.value = 1
        self.ask_all()

    def resume(self) -> None:
        """Let executors run again."""
        self._drained.value = 0
        self.withdraw()

    def withdraw(self) -> int:
        """Take back the requests that nobody has taken, and return how many they were."""
        return len(self._read(4096))

    def ticket(self) -> YieldTicket:
        """What one run of one executor watches."""
        return YieldTicket(self, self._generation)

    def take(self) -> bool:
        """Take one request, if there is one."""
        return bool(self._read(1))

    def fileno(self) -> int:
        """Readable while a request waits to be taken; another executor may be faster."""
        return self._reader

    def close(self) -> None:
        """Free the descriptors of this process."""
        os.close(self._reader)
        os.close(self._writer)

    def _read(self, limit: int) -> bytes:
        try:
            return os.read(self._reader, limit)
        except BlockingIOError:
            return b""


class YieldTicket:
    """One executor's view of a :class:`YieldPipe`: once it has taken a request, it stays raised for this run."""

    def __init__(self, pipe: YieldPipe, generation: SharedByte) -> None:
        self._pipe = pipe
        self._generation = generation
        self._mine = generation.value
        self._taken = False

    def is_set(self) -> bool:
        """Whether this executor is the one to yield; takes a waiting request."""
        pipe = self._pipe
        self._taken = self._taken or pipe.drained or self._generation.value != self._mine or pipe.take()
        return self._taken

    def fileno(self) -> int:
        """Readable while a request waits to be taken."""
        return self._pipe.fileno()
