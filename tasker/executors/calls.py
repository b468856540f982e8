"""The ledger of calls: which numbers were given out, which are still held, which receipts may be deleted.

A *call* is one claim or one completion; its number is the key of the receipt that SQL keeps for the steps it handed
out. The rules (each is there because something is lost or doubled without it):

- numbers rise from 1 and are never given out twice in one incarnation;
- a number is *held* from its allotment until its outcome is known and every step it brought is settled;
- the heartbeat carries the next number to be given and all held ones; a receipt below the next one that is not among
  the held ones is nobody's, whenever its call may commit;
- the receipt of a call whose steps are all settled is named, once, in the next call, and deleted by it; a step whose
  outcome was answered *busy* is not settled.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable


class CallLedger:
    """One incarnation's calls. Every method takes ``_lock``, the owner of all its state, and none calls out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 1
        # Call number → steps not yet settled; None while the outcome of the call itself is unknown.
        # Insertion order is number order, so the first key is the oldest.
        self._held: dict[int, int | None] = {}
        self._finished: list[int] = []

    def open(self) -> tuple[int, list[int]]:
        """A number for a call about to be made, and the finished receipts that the call is to name.

        A repeat of the call, when its outcome is unknown, carries the same number and the same receipts.
        """
        with self._lock:
            number = self._next
            self._next += 1
            self._held[number] = None
            finished, self._finished = self._finished, []
            return number, finished

    def take_finished(self) -> list[int]:
        """The finished receipts, for a call without a number of its own (release, deregistration)."""
        with self._lock:
            finished, self._finished = self._finished, []
            return finished

    def answered(self, number: int, steps: int) -> None:
        """Call ``number`` succeeded and brought ``steps`` steps."""
        with self._lock:
            if number not in self._held:
                return
            if steps:
                self._held[number] = steps
            else:
                # No step, no receipt: nothing to name.
                del self._held[number]

    def failed(self, number: int | None, finished: Iterable[int]) -> None:
        """The call was refused and left nothing behind: its receipts are to be named by another."""
        with self._lock:
            if number is not None:
                self._held.pop(number, None)
            self._finished[:0] = finished

    def settled(self, number: int, steps: int = 1) -> None:
        """``steps`` steps of call ``number`` were completed, released, delegated or found to be others'."""
        with self._lock:
            left = self._held.get(number)
            if left is None:
                return
            if left > steps:
                self._held[number] = left - steps
            else:
                del self._held[number]
                self._finished.append(number)

    def standing(self) -> tuple[int, list[int]]:
        """What a heartbeat carries: the next number to be given, and those held below it, oldest first."""
        with self._lock:
            return self._next, list(self._held)

    @property
    def held(self) -> int:
        """How many calls are held."""
        with self._lock:
            return len(self._held)
