"""How events of steps come from a worker's pool to its main process: through a pipe, if anybody wants them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
from collections.abc import Sequence

from tasker.hosting.shared import SharedByte

PIPE_BYTES = 1 << 20
"""How much waits at most for the main process: some thousand events. Where the system gives less, it is less."""

_READ_BYTES = 1 << 16


class EventPipe:
    """Lines in a pipe that is made before the first fork: any executor writes, the worker's main process reads.

    What fits into ``PIPE_BUF`` is written whole or not at all, so nobody waits, lines of several writers do not mix,
    and a process that is killed leaves no half of a line. When the pipe is full, events are dropped.
    """

    def __init__(self) -> None:
        self._wanted = SharedByte()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with contextlib.suppress(OSError):  # this user's share of memory for pipes is spent
                fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._begun = b""

    @property
    def wanted(self) -> bool:
        """Whether anybody wants events at present."""
        return self._wanted.value != 0

    @wanted.setter
    def wanted(self, wanted: bool) -> None:
        self._wanted.value = int(wanted)

    def send(self, events: Sequence[bytes]) -> int:
        """Write events, each a line without its end; how many were dropped."""
        dropped = size = 0
        lines: list[bytes] = []
        for number, event in enumerate(events):
            if len(event) >= select.PIPE_BUF:
                dropped += 1
                continue
            if size + len(event) >= select.PIPE_BUF:
                if not self._write(lines):
                    return dropped + len(lines) + len(events) - number
                lines, size = [], 0
            lines.append(event)
            size += len(event) + 1
        if lines and not self._write(lines):
            dropped += len(lines)
        return dropped

    def read(self, limit: int) -> list[bytes]:
        """About ``limit`` events, or as many as there are."""
        events: list[bytes] = []
        while len(events) < limit:
            try:
                read = os.read(self._reader, _READ_BYTES)
            except BlockingIOError:
                break
            *lines, self._begun = (self._begun + read).split(b"\n")
            events += lines
        return events

    def fileno(self) -> int:
        """Readable when there are events."""
        return self._reader

    def close(self) -> None:
        """Free the descriptors of this process."""
        os.close(self._reader)
        os.close(self._writer)

    def _write(self, lines: Sequence[bytes]) -> bool:
        try:
            os.write(self._writer, b"\n".join(lines) + b"\n")
        except BlockingIOError:
            return False
        return True
