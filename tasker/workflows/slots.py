"""When a schedule is due: cron expressions in a time zone, and intervals; which slots are fired, and which follows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from tasker.errors import InvalidRequest

CATCH_UP = ("last", "all", "none")
"""What becomes of slots that were missed: the last one is fired, all of them are, or none."""

SLOTS_AT_ONCE = 100
"""Of slots that are made up for, so many are fired in one transaction."""

MISSED_AFTER = dt.timedelta(minutes=1)
"""A slot that nobody fired for so long was missed."""

LONGEST_SECONDS = 3650 * 86_400

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SHORT_FORMS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}


@dataclass(frozen=True)
class Plan:
    """What is to be done about a schedule that is due.

    Attributes:
        fire: the slots whose tasks are made now, in order.
        next_due_at: the slot after all that are dealt with.
    """

    fire: tuple[dt.datetime, ...]
    next_due_at: dt.datetime


@dataclass(frozen=True)
class Timing:
    """The slots of one schedule. Make it by ``checked``.

    Attributes:
        cron: five fields (minute, hour, day, month, weekday), six with seconds first, or one of ``@hourly``,
            ``@daily``, ``@weekly``, ``@monthly``, ``@yearly``; as cronsim reads it, which does as Debian's cron does
            when clocks change: a job whose hour is left out runs right after it, one whose hour comes twice runs once.
        every_seconds: the alternative: an interval, counted from ``starts_at``.
        starts_at: no slot lies before it; intervals without it are counted from 1970-01-01T00:00Z, so that one of
            15 minutes is due on the quarters of an hour.
        time_zone: of the cron expression, as the IANA calls it.
    """

    cron: str | None = None
    every_seconds: int | None = None
    starts_at: dt.datetime | None = None
    time_zone: str = "UTC"

    @classmethod
    def checked(
        cls,
        *,
        cron: str | None = None,
        every: dt.timedelta | float | None = None,
        starts_at: dt.datetime | None = None,
        time_zone: str = "UTC",
    ) -> Timing:
        """A timing that has slots.

        Args:
            cron: see the class.
            every: the interval, in seconds where it is a number; whole seconds.
            starts_at: see the class; with a time zone.
            time_zone: see the class.

        Raises:
            InvalidRequest: it has not; ``field`` names the argument.
        """
        if (cron is None) == (every is None):
            raise InvalidRequest("a schedule is either cron or every", hint="give one of the two", field="cron")
        if starts_at is not None and starts_at.tzinfo is None:
            raise InvalidRequest("starts_at has no time zone", hint="use an aware datetime", field="starts_at")
        _zone(time_zone)
        if every is not None:
            return cls(every_seconds=_whole_seconds(every), starts_at=starts_at, time_zone=time_zone)
        made = cls(cron=cron, starts_at=starts_at, time_zone=time_zone)
        made.after(_EPOCH if starts_at is None else starts_at)
        return made

    def after(self, moment: dt.datetime) -> dt.datetime:
        """The first slot after ``moment``.

        Raises:
            InvalidRequest: there is none within fifty years (30 February).
        """
        if self.starts_at is not None and moment < self.starts_at:
            moment = self.starts_at - dt.timedelta(microseconds=1)
        if self.every_seconds is not None:
            return self._interval(moment) + dt.timedelta(seconds=self.every_seconds)
        # Compared, since cronsim counts in local time, in which an hour comes twice when clocks are set back.
        return self._first(slot for slot in self._cron(moment) if slot > moment)

    def latest(self, moment: dt.datetime) -> dt.datetime:
        """The last slot that is not after ``moment``."""
        if self.every_seconds is not None:
            return self._interval(moment)
        later = moment + dt.timedelta(seconds=1)
        return self._first(slot for slot in self._cron(later, reverse=True) if slot <= moment)

    def plan(self, next_due_at: dt.datetime, now: dt.datetime, catch_up: str) -> Plan:
        """What is to be done about a schedule whose slot ``next_due_at`` is due.

        Args:
            next_due_at: the first slot that nobody has dealt with; not after ``now``.
            now: the present time.
            catch_up: one of ``CATCH_UP``.
        """
        if catch_up == "all":
            slots = [next_due_at]
            while len(slots) < SLOTS_AT_ONCE and (following := self.after(slots[-1])) <= now:
                slots.append(following)
            return Plan(tuple(slots), self.after(slots[-1]))
        # A definition may have changed since next_due_at was computed: that one stands.
        newest = max(next_due_at, self.latest(now))
        fire = () if catch_up == "none" and now - newest > MISSED_AFTER else (newest,)
        return Plan(fire, self.after(max(newest, now)))

    def _interval(self, moment: dt.datetime) -> dt.datetime:
        """The last multiple of the interval that is not after ``moment``."""
        start = _EPOCH if self.starts_at is None else self.starts_at
        every = dt.timedelta(seconds=self.every_seconds or 1)
        return start + (moment - start) // every * every

    def _cron(self, moment: dt.datetime, *, reverse: bool = False) -> Iterator[dt.datetime]:
        expression = str(self.cron)
        local = moment.astimezone(_zone(self.time_zone))
        try:
            return CronSim(_SHORT_FORMS.get(expression, expression), local, reverse=reverse)
        except CronSimError as error:
            raise InvalidRequest(
                f"{expression!r} is no cron expression: {error}",
                hint="give five fields: minute, hour, day, month, weekday, as in '30 6 * * 1-5'",
                field="cron",
            ) from error

    def _first(self, slots: Iterator[dt.datetime]) -> dt.datetime:
        found = next(slots, None)
        if found is None:
            raise InvalidRequest(f"{self.cron!r} is never due", hint="look at day and month", field="cron")
        return found.astimezone(dt.UTC)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise InvalidRequest(
            f"{name!r} is no time zone here", hint="write it like Europe/Berlin", field="time_zone"
        ) from error


def _whole_seconds(every: object) -> int:
    seconds = every.total_seconds() if isinstance(every, dt.timedelta) else every
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not 1 <= seconds <= LONGEST_SECONDS
        or not float(seconds).is_integer()
    ):
        raise InvalidRequest(
            f"an interval of {every!r} is not possible",
            hint=f"give whole seconds, at most {LONGEST_SECONDS} (ten years)",
            field="every",
        )
    return int(seconds)
