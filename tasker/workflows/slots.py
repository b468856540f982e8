"""When a schedule is due: cron expressions in a time zone, and intervals; which slots are fired, and which follows."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterable, Iterator
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
LONGEST_CRON = 256
"""Characters of a cron expression."""

FIRST_YEAR, LAST_YEAR = 1900, 9000
"""Of ``starts_at``; what lies far outside can neither be read by Python nor computed with."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NONE = dt.timedelta(0)
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
            ``@daily``, ``@weekly``, ``@monthly``, ``@yearly``; as cronsim reads it. When clocks change it is as
            Debian's cron has it: a job whose hour is left out runs right after it, one whose hour comes twice runs
            once. Those of six fields, and those whose minute or hour begins with a star, go by what the clock shows.
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
        if starts_at is not None:
            _check_start(starts_at)
        _zone(time_zone)
        if every is not None:
            return cls(every_seconds=_whole_seconds(every), starts_at=starts_at, time_zone=time_zone)
        made = cls(cron=cron, starts_at=starts_at, time_zone=time_zone)
        made.after(_EPOCH if starts_at is None else starts_at)
        return made

    def __post_init__(self) -> None:
        # In a zone whose clocks change, Python subtracts, adds and compares what clocks show, not what passes.
        if self.starts_at is not None:
            object.__setattr__(self, "starts_at", self.starts_at.astimezone(dt.UTC))

    def after(self, moment: dt.datetime) -> dt.datetime:
        """The first slot after ``moment``.

        Raises:
            InvalidRequest: there is none within fifty years (30 February).
        """
        moment = moment.astimezone(dt.UTC)
        if self.starts_at is not None and moment < self.starts_at:
            moment = self.starts_at - dt.timedelta(microseconds=1)
        if self.every_seconds is not None:
            return self._first(iter([self._interval(moment)]), plus=dt.timedelta(seconds=self.every_seconds))
        return self._first(self._cron_after(moment))

    def latest(self, moment: dt.datetime) -> dt.datetime:
        """The last slot that is not after ``moment``."""
        moment = moment.astimezone(dt.UTC)
        if self.every_seconds is not None:
            return self._interval(moment)
        return self._first(self._cron_until(moment))

    def plan(self, next_due_at: dt.datetime, now: dt.datetime, catch_up: str) -> Plan:
        """What is to be done about a schedule whose slot ``next_due_at`` is due.

        Args:
            next_due_at: the first slot that nobody has dealt with; not after ``now``.
            now: the present time.
            catch_up: one of ``CATCH_UP``.
        """
        next_due_at, now = next_due_at.astimezone(dt.UTC), now.astimezone(dt.UTC)
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

    # Cronsim finds what a clock on the wall shows; at which moments it shows that is found here. Its own way through
    # the changes of clocks leaves out slots where they are set by half an hour, and differs backwards from forwards.

    def _cron_after(self, moment: dt.datetime) -> Iterator[dt.datetime]:
        """Slots after ``moment``, of which the first one is right."""
        local, again = self._on_the_wall(moment)
        found = (slot for shown in self._shown(local) for slot in self._moments(shown) if slot > moment)
        # What the clock shows once more, as it will be set back.
        after = self._shown(local - max(again, _NONE))
        repeated = (
            slot
            for shown in itertools.takewhile(lambda shown: shown <= local, after)
            for slot in self._moments(shown)
            if slot > moment
        )
        return _merged(repeated if again > _NONE else iter(()), found, min)

    def _cron_until(self, moment: dt.datetime) -> Iterator[dt.datetime]:
        """Slots not after ``moment``, of which the first one is right."""
        local, again = self._on_the_wall(moment)
        second = dt.timedelta(seconds=1)
        backwards = self._shown(local + second, reverse=True)
        found = (slot for shown in backwards for slot in reversed(self._moments(shown)) if slot <= moment)
        # What the clock has shown before it was set back.
        before = self._shown(local - min(again, _NONE) + second, reverse=True)
        repeated = (
            slot
            for shown in itertools.takewhile(lambda shown: shown > local, before)
            for slot in reversed(self._moments(shown))
            if slot <= moment
        )
        return _merged(repeated if again < _NONE else iter(()), found, max)

    def _on_the_wall(self, moment: dt.datetime) -> tuple[dt.datetime, dt.timedelta]:
        """What the clock shows; if it shows it twice, for how long it will be set back (above 0), or was (below 0)."""
        local = moment.astimezone(_zone(self.time_zone))
        first, second = (local.replace(fold=fold).utcoffset() or _NONE for fold in (0, 1))
        again = max(first - second, _NONE)
        return local.replace(tzinfo=None), -again if local.fold else again

    def _moments(self, shown: dt.datetime) -> list[dt.datetime]:
        """When a job is due at what the clock shows: once as a rule, and never or twice where clocks change."""
        zone = _zone(self.time_zone)
        moments = _moments_of(shown, zone)
        if not self._at_fixed_hours:
            return moments
        while not moments:  # left out: as soon as the clock goes on
            shown += dt.timedelta(minutes=1)
            moments = _moments_of(shown, zone)
        return moments[:1]

    @property
    def _at_fixed_hours(self) -> bool:
        fields = self._expression.split()
        return len(fields) == 5 and not fields[0].startswith("*") and not fields[1].startswith("*")

    @property
    def _expression(self) -> str:
        return _SHORT_FORMS.get(str(self.cron), str(self.cron))

    def _shown(self, local: dt.datetime, *, reverse: bool = False) -> Iterator[dt.datetime]:
        """What a clock shows when the expression fits, after ``local``, or before it."""
        expression = self._expression
        try:
            if len(expression) > LONGEST_CRON:
                raise CronSimError(f"it has more than {LONGEST_CRON} characters")
            return CronSim(expression, local, reverse=reverse)
        except CronSimError as error:
            raise InvalidRequest(
                f"{expression[:LONGEST_CRON]!r} is no cron expression: {error}",
                hint="give five fields: minute, hour, day, month, weekday, as in '30 6 * * 1-5'",
                field="cron",
            ) from error

    def _first(self, slots: Iterator[dt.datetime], *, plus: dt.timedelta = _NONE) -> dt.datetime:
        try:
            found = next(slots, None)
            if found is not None:
                return found + plus
        except OverflowError:
            pass  # Python's calendar ends before it
        field, said = ("cron", repr(self.cron)) if self.every_seconds is None else ("every", "the interval")
        raise InvalidRequest(f"{said} is never due", hint="look at day and month", field=field)


def _merged(
    one: Iterator[dt.datetime], other: Iterator[dt.datetime], choose: Callable[[Iterable[dt.datetime]], dt.datetime]
) -> Iterator[dt.datetime]:
    """The first of both, as ``choose`` says."""
    first = [slot for slot in (next(one, None), next(other, None)) if slot is not None]
    if first:
        yield choose(first)


def _moments_of(shown: dt.datetime, zone: ZoneInfo) -> list[dt.datetime]:
    """When clocks of ``zone`` show this."""
    moments: list[dt.datetime] = []
    for fold in (0, 1):
        moment = shown.replace(tzinfo=zone, fold=fold).astimezone(dt.UTC)
        if moment not in moments and moment.astimezone(zone).replace(tzinfo=None, fold=0) == shown:
            moments.append(moment)
    return moments


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError) as error:
        raise InvalidRequest(
            f"{name!r} is no time zone here", hint="write it like Europe/Berlin", field="time_zone"
        ) from error


def _check_start(starts_at: object) -> None:
    if not isinstance(starts_at, dt.datetime) or starts_at.tzinfo is None:
        raise InvalidRequest(
            f"starts_at is {starts_at!r}, which has no time zone", hint="use an aware datetime", field="starts_at"
        )
    if not FIRST_YEAR <= starts_at.year < LAST_YEAR:
        raise InvalidRequest(
            f"starts_at lies in the year {starts_at.year}",
            hint=f"give one from {FIRST_YEAR} to {LAST_YEAR - 1}",
            field="starts_at",
        )


def _whole_seconds(every: object) -> int:
    seconds = every.total_seconds() if isinstance(every, dt.timedelta) else every
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not 1 <= seconds <= LONGEST_SECONDS
        or not float(seconds).is_integer()
    ):
        raise InvalidRequest(
            f"an interval of {every if isinstance(every, dt.timedelta) else repr(every)} is not possible",
            hint=f"give whole seconds, at most {LONGEST_SECONDS} (ten years)",
            field="every",
        )
    return int(seconds)
