"""Reading schedules: those that are due, and all of them for those who look."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tasker.database.calls import Call, first_value

_COLUMNS = (
    "name, namespace, workflow, task, cron, every_seconds, starts_at, time_zone, catch_up, next_due_at, paused_at,"
    " last_due_at, last_task_uuid, fired, failure, failed_at, created_at, created_by, changed_at, changed_by"
)


@dataclass(frozen=True)
class ScheduleRecord:
    """A workflow that is started by the clock.

    Attributes:
        name: of the schedule.
        namespace: the workflow's namespace.
        workflow: the workflow's name.
        task: what each slot's task is made with: ``context``, ``version``, ``priority``, ``tags`` and so on.
        cron: the cron expression, or ``None``.
        every_seconds: the interval, or ``None``.
        starts_at: no slot lies before it.
        time_zone: of the cron expression.
        catch_up: what becomes of missed slots: ``last``, ``all`` or ``none``.
        next_due_at: the next slot.
        paused_at: since when it is paused.
        last_due_at: the last slot that was fired.
        last_task_uuid: that slot's task.
        fired: how many slots were fired.
        failure: why the slot that is due cannot be fired.
        failed_at: when that was last tried.
        created_at: when the schedule was made.
        created_by: by whom.
        changed_at: when it was last changed.
        changed_by: by whom.
    """

    name: str
    namespace: str
    workflow: str
    task: dict[str, Any]
    cron: str | None
    every_seconds: int | None
    starts_at: dt.datetime | None
    time_zone: str
    catch_up: str
    next_due_at: dt.datetime
    paused_at: dt.datetime | None
    last_due_at: dt.datetime | None
    last_task_uuid: UUID | None
    fired: int
    failure: str | None
    failed_at: dt.datetime | None
    created_at: dt.datetime
    created_by: str | None
    changed_at: dt.datetime
    changed_by: str | None


@dataclass(frozen=True)
class DueSchedule:
    """What is to be known of a schedule to compute its slots; its task, which may be large, stays where it is.

    Attributes:
        name: of the schedule.
        cron: the cron expression, or ``None``.
        every_seconds: the interval, or ``None``.
        starts_at: no slot lies before it.
        time_zone: of the cron expression.
        catch_up: what becomes of missed slots.
        next_due_at: the slot that is due.
        now: the present time of the database.
    """

    name: str
    cron: str | None
    every_seconds: int | None
    starts_at: dt.datetime | None
    time_zone: str
    catch_up: str
    next_due_at: dt.datetime
    now: dt.datetime


def due(limit: int) -> Call[tuple[DueSchedule, ...]]:
    """At most so many schedules of which a slot is due, the longest waiting first."""
    return Call(
        "SELECT name, cron, every_seconds, starts_at, time_zone, catch_up, next_due_at, tasker.now()"
        " FROM tasker.schedules WHERE paused_at IS NULL AND look_at <= tasker.now()"
        " ORDER BY look_at LIMIT %(quantity)s",
        {"quantity": limit},
        decode=lambda rows: tuple(DueSchedule(*row) for row in rows),
    )


def schedules() -> Call[tuple[ScheduleRecord, ...]]:
    """All schedules, by name."""
    return Call(
        f"SELECT {_COLUMNS} FROM tasker.schedules ORDER BY name",
        decode=lambda rows: tuple(_record(row) for row in rows),
    )


def schedule(name: str) -> Call[ScheduleRecord | None]:
    """One schedule."""
    return Call(
        f"SELECT {_COLUMNS} FROM tasker.schedules WHERE name = %(name)s",
        {"name": name},
        decode=lambda rows: _record(rows[0]) if rows else None,
    )


def now() -> Call[dt.datetime]:
    """The time by which slots are due."""
    return Call("SELECT tasker.now()", decode=first_value)


def _record(row: Sequence[Any]) -> ScheduleRecord:
    return ScheduleRecord(*row)
