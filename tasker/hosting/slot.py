"""One worker slot that is kept filled with an executor."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tasker.hosting.roles import Role
from tasker.hosting.tally import Tally

RESTART_SECONDS = 0.001
"""Between two occupants. In a solo pool an executor blocks the main loop: this lets it read its sockets in between."""

FIRST_PAUSE_SECONDS = 0.1
"""The same after a failure; doubles with each further one."""

LONGEST_PAUSE_SECONDS = 10.0


class Occupant:
    """One executor task in one slot.

    It is also its request's acknowledgement: Celery calls it when the task ended, however it did.

    Args:
        slot: the slot it fills.
        ended: called once when it has left its slot, from whichever thread saw it.
    """

    def __init__(self, slot: Slot, ended: Callable[[Slot], None]) -> None:
        self.slot = slot
        self.request: Any = None
        """Celery's request, once the consumer's strategy made it."""
        self.failed = False
        """It raised, or its process died."""
        self.since = time.monotonic()
        self._ended = ended

    def bind(self, request: Any) -> None:
        """Remember the request; one of the consumer's callbacks."""
        self.request = request

    def __call__(self, logger: Any = None, errors: Any = None, requeue: bool = False) -> None:
        """Leave the slot: Celery acknowledges or rejects."""
        if self.slot.vacate(self):
            self._ended(self.slot)


class Slot:
    """A slot of the worker's pool, its role, and who fills it at present.

    Args:
        role: what it runs.
        tally: where its executors count what they do; ``None``: nowhere.
    """

    def __init__(self, role: Role, tally: Tally | None = None) -> None:
        self.role = role
        self.tally = tally
        self.occupant: Occupant | None = None
        self.failures = 0
        """How many occupants raised, or died with their process."""
        self.not_before = 0.0
        """``time.monotonic()`` before which it is not filled again: executors that fail at once must not spin."""
        self._pause = FIRST_PAUSE_SECONDS

    def occupy(self, ended: Callable[[Slot], None]) -> Occupant:
        """A new occupant of the empty slot."""
        self.occupant = Occupant(self, ended)
        return self.occupant

    def vacate(self, occupant: Occupant) -> bool:
        """Empty the slot if ``occupant`` still fills it; whether it did."""
        if self.occupant is not occupant:
            return False
        now = time.monotonic()
        self.failures += occupant.failed
        if occupant.failed and now - occupant.since < LONGEST_PAUSE_SECONDS:
            self.not_before = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        else:
            self.not_before = now + RESTART_SECONDS
            self._pause = FIRST_PAUSE_SECONDS
        self.occupant = None
        return True
