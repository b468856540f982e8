"""Schedules as the client makes and changes them; operations, as in ``operations``."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from tasker.client.operations import Operation
from tasker.client.requests import TaskRequest, check_text, to_message
from tasker.database import functions, reads, schedules
from tasker.database.schedules import ScheduleRecord
from tasker.errors import InvalidRequest, NotFound
from tasker.workflows.slots import CATCH_UP, Timing

_OF_A_SLOT = ("context_checked", "requested_by", "source_system")


@dataclass(frozen=True)
class ScheduleChange:
    """What was done about a schedule.

    Attributes:
        schedule: as it is now; as it was, where it was removed.
        outcome: ``new``, ``replaced``, ``paused``, ``resumed``, ``removed``, or ``unchanged``.
    """

    schedule: ScheduleRecord
    outcome: str


def add(
    name: str, request: TaskRequest, timing: Timing, *, catch_up: str, replace: bool, by: str
) -> Operation[ScheduleChange]:
    """Make a schedule, or replace one, after its context was checked against the workflow as it is now."""
    check_text(name, "name", "add_schedule")
    check_text(request.namespace, "namespace", "add_schedule")
    check_text(request.name, "workflow", "add_schedule")
    if request.version is not None:
        check_text(request.version, "version", "add_schedule")
    if catch_up not in CATCH_UP:
        raise InvalidRequest(f"{catch_up!r} is no way to catch up", hint="say last, all or none", field="catch_up")
    template = yield reads.template(request.namespace, request.name, request.version)
    task: dict[str, Any] = {key: value for key, value in to_message(request, template).items() if key not in _OF_A_SLOT}
    task["version"] = request.version  # each slot runs the highest version there is then, unless one was asked for
    now: dt.datetime = yield schedules.now()
    answer = yield functions.set_schedule(
        {
            "name": name,
            "task": {key: value for key, value in task.items() if value is not None},
            "cron": timing.cron,
            "every_seconds": timing.every_seconds,
            "starts_at": None if timing.starts_at is None else timing.starts_at.isoformat(),
            "time_zone": timing.time_zone,
            "catch_up": catch_up,
            "next_due_at": timing.after(now).isoformat(),
            "replace": replace,
            "by": by,
        }
    )
    return ScheduleChange((yield from _get(name)), answer["outcome"])


def change(name: str, action: str, *, by: str) -> Operation[ScheduleChange]:
    """Pause, resume or remove a schedule."""
    before = yield from _get(name)
    request = {"name": name, "action": action, "by": by}
    if action == "resume":
        now: dt.datetime = yield schedules.now()
        timing = Timing(before.cron, before.every_seconds, before.starts_at, before.time_zone)
        request["next_due_at"] = timing.after(now).isoformat()
    answer = yield functions.change_schedule(request)
    outcome = {"pause": "paused", "resume": "resumed", "remove": "removed"}[action]
    if action == "remove":
        return ScheduleChange(before, outcome)
    return ScheduleChange((yield from _get(name)), outcome if answer["changed"] else "unchanged")


def _get(name: str) -> Operation[ScheduleRecord]:
    check_text(name, "name", "schedule")
    found: ScheduleRecord | None = yield schedules.schedule(name)
    if found is None:
        raise NotFound(
            f"there is no schedule {name!r}", hint="look what is there: `tasker schedule list`", field="name"
        )
    return found
