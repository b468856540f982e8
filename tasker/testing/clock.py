"""A movable clock for tests."""

from __future__ import annotations

import datetime as dt

from tasker.database.connection import Database


class Clock:
    """Moves ``tasker.now()``, the engine's clock, on the connections of this process.

    It rules when tasks may run (``run_at``), retries, schedules and the expiry of claims; liveness of executors and the
    dates in the audit trail stay on the real clock. Worker processes do not see it: it is for ``run_until_idle`` and
    for functions called from the test.

    Args:
        databases: the databases whose connections follow the clock.
    """

    def __init__(self, *databases: Database) -> None:
        self._offset = dt.timedelta(0)
        self._databases: list[Database] = []
        for database in databases:
            self.attach(database)

    @property
    def offset(self) -> dt.timedelta:
        """How far the clock is ahead of the real one."""
        return self._offset

    def now(self) -> dt.datetime:
        """The moved time, by this machine's clock."""
        return dt.datetime.now(dt.UTC) + self._offset

    def attach(self, database: Database) -> None:
        """Let ``database`` follow the clock, from the next time a connection is taken on."""
        self._databases.append(database)
        database.clock_offset = self._offset

    def advance(
        self, duration: dt.timedelta = dt.timedelta(0), *, seconds: float = 0, minutes: float = 0, hours: float = 0
    ) -> None:
        """Move the clock on by ``duration`` and what else is given.

        Raises:
            ValueError: this would move it back; use ``move_to`` for that.
        """
        step = duration + dt.timedelta(seconds=seconds, minutes=minutes, hours=hours)
        if step < dt.timedelta(0):
            raise ValueError(f"a clock advances forward, not by {step}: use move_to() to go back")
        self._set(self._offset + step)

    def move_to(self, moment: dt.datetime) -> None:
        """Set the clock to ``moment``, from where it goes on.

        Raises:
            ValueError: ``moment`` has no time zone.
        """
        if moment.tzinfo is None:
            raise ValueError(f"{moment} has no time zone: say datetime(..., tzinfo=UTC)")
        self._set(moment - dt.datetime.now(dt.UTC))

    def reset(self) -> None:
        """Back to the real time."""
        self._set(dt.timedelta(0))

    def _set(self, offset: dt.timedelta) -> None:
        self._offset = offset
        for database in self._databases:
            database.clock_offset = offset
