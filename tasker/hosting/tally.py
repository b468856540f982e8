"""What executors have done so far, as a worker's main process sees it without asking anybody: in shared memory."""

from __future__ import annotations

import datetime as dt
import mmap
import struct
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from tasker.executors.loop import ExecutorLoop

ROWS = 256
"""Executors of one worker that can be told of at a time."""

COUNTS = ("held", "claimed", "completed", "failed", "released", "cancelled", "taken", "events_dropped")
"""Of steps: held now, claimed in calls of their own, completed, attempts failed, given back, cancelled. ``taken``:
what executors of other kinds took. ``events_dropped``: nobody made room for them in time."""

_KEY, _SINCE, _COUNTS = struct.Struct("16s"), struct.Struct("d"), struct.Struct(f"{len(COUNTS)}Q")
_ROW_BYTES = 128
_NOBODY = bytes(16)


class Board:
    """Rows in an anonymous shared mapping, made before the first fork.

    The main process gives rows away and says which task each is about; whoever runs that task finds its row and writes
    it. Numbers are read as they stand: one may be a moment older than its neighbour.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, ROWS * _ROW_BYTES)
        self._lock = threading.Lock()  # owns _free
        self._free = list(range(ROWS))

    def allot(self) -> Tally | None:
        """A row; ``None`` when all are taken. In the main process."""
        with self._lock:
            if not self._free:
                return None
            return Tally(self, self._memory, self._free.pop(0))

    def find(self, task_id: str) -> Tally | None:
        """The row about the Celery task of that id. In any process."""
        key = UUID(task_id).bytes
        for row in range(ROWS):
            if self._memory[row * _ROW_BYTES : row * _ROW_BYTES + _KEY.size] == key:
                return Tally(self, self._memory, row)
        return None

    def give_back(self, row: int) -> None:
        """The row is free again."""
        with self._lock:
            self._free.append(row)


class Tally:
    """One row; see ``Board``."""

    def __init__(self, board: Board, memory: mmap.mmap, row: int) -> None:
        self._board = board
        self._memory = memory
        self._row = row
        self._offset = row * _ROW_BYTES

    def assign(self, task_id: str) -> None:
        """From now on it is about this task. What the one before counted stays to be seen until this one begins."""
        _KEY.pack_into(self._memory, self._offset, UUID(task_id).bytes)

    def free(self) -> None:
        """It is about nobody any more."""
        self._write(0.0, (0,) * len(COUNTS))
        _KEY.pack_into(self._memory, self._offset, _NOBODY)
        self._board.give_back(self._row)

    def follow(self, loop: ExecutorLoop) -> None:
        """Show what the executors of ``loop`` count, whenever they do. In the process that runs them."""
        key = bytes(self._memory[self._offset : self._offset + _KEY.size])
        since = time.time()
        executors = loop.executors

        def show() -> None:
            if self._memory[self._offset : self._offset + _KEY.size] != key:
                return  # others have the row by now
            snapshots = [executor.counters.snapshot() for executor in executors]
            held = sum(executor.holds for executor in executors)
            self._write(
                since,
                (held, *(sum(snapshot.get(name, 0) for snapshot in snapshots) for name in COUNTS[1:])),
            )

        for executor in executors:
            executor.counters.changed = show
        show()

    @property
    def since(self) -> float | None:
        """When the executors began, in seconds since 1970; ``None`` before they did."""
        (since,) = _SINCE.unpack_from(self._memory, self._offset + _KEY.size)
        return float(since) or None

    @property
    def counts(self) -> dict[str, int]:
        """The counts by name."""
        counts = _COUNTS.unpack_from(self._memory, self._offset + _KEY.size + _SINCE.size)
        return dict(zip(COUNTS, counts, strict=True))

    def _write(self, since: float, counts: tuple[int, ...]) -> None:
        _SINCE.pack_into(self._memory, self._offset + _KEY.size, since)
        _COUNTS.pack_into(self._memory, self._offset + _KEY.size + _SINCE.size, *counts)


def describe(kind: str, namespaces: Sequence[str], tally: Tally | None) -> dict[str, Any]:
    """One executor, or loop of executors, as remote control shows it."""
    since = None if tally is None else tally.since
    return {
        "kind": kind,
        "namespaces": list(namespaces),
        "since": since and dt.datetime.fromtimestamp(since, dt.UTC).isoformat(timespec="seconds"),
        "counts": {} if tally is None else tally.counts,
    }
