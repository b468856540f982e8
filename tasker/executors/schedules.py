"""Firing schedules: what whoever admits tasks does beside it, and the coordinator where nobody admits any."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from typing import Any

from tasker.database import functions, schedules
from tasker.database.calls import Call
from tasker.database.schedules import ScheduleRecord
from tasker.errors import ContextInvalid, InvalidRequest, PayloadTooLarge, UnknownTemplate, ValueNotStorable
from tasker.workflows.slots import Timing

logger = logging.getLogger(__name__)

SCHEDULES_AT_ONCE = 100

RETRY_SECONDS = 60.0
"""Until a slot is tried again whose task cannot be made."""

_ITS_OWN_FAULT = (ContextInvalid, InvalidRequest, PayloadTooLarge, UnknownTemplate, ValueNotStorable)


def fire_due_schedules(call: Callable[[Call[Any]], Any]) -> int:
    """Make the tasks of the slots that are due; how many schedules moved on.

    Any number of processes may do so at once: each slot is fired by one of them.

    Args:
        call: executes a call in a transaction of its own, and returns its answer.
    """
    due: tuple[tuple[ScheduleRecord, dt.datetime], ...] = call(schedules.due(SCHEDULES_AT_ONCE))
    return sum(_fire(call, schedule, now) for schedule, now in due)


def _fire(call: Callable[[Call[Any]], Any], schedule: ScheduleRecord, now: dt.datetime) -> bool:
    timing = Timing(schedule.cron, schedule.every_seconds, schedule.starts_at, schedule.time_zone)
    slot = {"name": schedule.name, "expected_due_at": schedule.next_due_at.isoformat()}
    try:
        plan = timing.plan(schedule.next_due_at, now, schedule.catch_up)
        request = {
            **slot,
            "slots": [due_at.isoformat() for due_at in plan.fire],
            "next_due_at": plan.next_due_at.isoformat(),
        }
        fired: bool = call(functions.fire_schedule(request))["fired"]
    except _ITS_OWN_FAULT as error:
        # One that cannot be fired does not keep the others, and is not lost: it is due until its cause is mended.
        logger.error("Schedule %s cannot be fired, next attempt in %g s: %s", schedule.name, RETRY_SECONDS, error)
        call(functions.postpone_schedule({**slot, "failure": str(error), "retry_seconds": RETRY_SECONDS}))
        return False
    return fired
