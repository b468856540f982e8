"""Firing schedules: what whoever admits tasks does beside it, and the coordinator where nobody admits any."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import psycopg

from tasker.database import functions, schedules
from tasker.database.calls import Call
from tasker.database.connection import is_connection_lost
from tasker.database.schedules import DueSchedule
from tasker.errors import (
    Backpressure,
    ContextInvalid,
    InvalidRequest,
    PayloadTooLarge,
    UnknownTemplate,
    ValueNotStorable,
)
from tasker.executors.link import sqlstate_of
from tasker.workflows.slots import Plan, Timing

logger = logging.getLogger(__name__)

SCHEDULES_AT_ONCE = 1000

FIRING_SECONDS = 1.0
"""How long to fire before others get their turn: those whose tasks wait for admission, and who is told to stop."""

RETRY_SECONDS = 60.0
"""Until a slot is tried again whose task cannot be made."""

_ITS_OWN_FAULT = (Backpressure, ContextInvalid, InvalidRequest, PayloadTooLarge, UnknownTemplate, ValueNotStorable)

_PASSING = ("40001", "40P01", "55P03")
"""Serialization, deadlock, a lock that was not to be had."""


def fire_due_schedules(call: Callable[[Call[Any]], Any], *, seconds: float) -> int:
    """Make the tasks of the slots that are due; how many schedules moved on.

    Any number of processes may do so at once: each slot is fired by one of them.

    Args:
        call: executes a call in a transaction of its own, and returns its answer.
        seconds: no other schedule is begun after this; those left are still due.
    """
    deadline = time.monotonic() + seconds
    due: tuple[DueSchedule, ...] = call(schedules.due(SCHEDULES_AT_ONCE))
    fired = 0
    for schedule in due:
        fired += _fire(call, schedule)
        if time.monotonic() >= deadline:
            break
    return fired


def _fire(call: Callable[[Call[Any]], Any], schedule: DueSchedule) -> bool:
    slot = {"name": schedule.name, "expected_due_at": schedule.next_due_at.isoformat()}
    try:
        timing = Timing(schedule.cron, schedule.every_seconds, schedule.starts_at, schedule.time_zone)
        plan = timing.plan(schedule.next_due_at, schedule.now, schedule.catch_up)
        try:
            return _moved_on(call, slot, plan)
        except psycopg.errors.QueryCanceled:
            if len(plan.fire) < 2:
                raise
            # Large tasks that are made up for: one of them may be made in the time that many are not.
            return _moved_on(call, slot, Plan(plan.fire[:1], plan.fire[1]))
    except (*_ITS_OWN_FAULT, psycopg.Error) as error:
        if is_connection_lost(error):
            raise
        if sqlstate_of(error) in _PASSING:
            logger.info("Schedule %s is fired later: %s", schedule.name, error)
            return False
        # One that cannot be fired does not keep the others, and is not lost: it is due until its cause is mended.
        logger.error("Schedule %s cannot be fired, next attempt in %g s: %s", schedule.name, RETRY_SECONDS, error)
        call(functions.postpone_schedule({**slot, "failure": str(error), "retry_seconds": RETRY_SECONDS}))
        return False


def _moved_on(call: Callable[[Call[Any]], Any], slot: dict[str, str], plan: Plan) -> bool:
    request = {
        **slot,
        "slots": [due_at.isoformat() for due_at in plan.fire],
        "next_due_at": plan.next_due_at.isoformat(),
    }
    fired: bool = call(functions.fire_schedule(request))["fired"]
    return fired
