"""Remote control of executors, beside Celery's own commands: ``celery -A tasker inspect|control tasker_…``.

They run in the worker's main loop and so ask nobody: what they tell is in this process or in memory that is shared.
"""

from __future__ import annotations

from typing import Any

import click
from celery.worker import state as worker_state
from celery.worker.control import control_command, inspect_command

from tasker.hosting.host import WorkerHost, find_host
from tasker.hosting.pools import SOLO
from tasker.hosting.resident import RUN_EXECUTORS
from tasker.hosting.steps import HostExecutors, hosting_step
from tasker.hosting.tally import describe

EXECUTORS, STATS, DRAIN, SCALE = "tasker_executors", "tasker_stats", "tasker_drain", "tasker_scale"

_AGAIN = frozenset({"resume", "undo", "true", "yes", "1"})


def _again(word: object) -> bool:
    """The argument of ``tasker_drain``, as it is typed or sent."""
    if isinstance(word, bool):
        return word
    if str(word).lower() not in _AGAIN:
        raise ValueError(f"{word!r} is not understood; say resume, or nothing")
    return True


def _typed(word: str) -> bool:
    """The same on the command line of ``celery control``."""
    try:
        return _again(word)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@inspect_command(name=EXECUTORS)
def tasker_executors(state: Any) -> Any:
    """Show the worker's executors: kind, namespaces, since when, and counts."""
    found = _found(state)
    if found is None:
        return _no_host(state)
    host, hosting = found
    executors: list[dict[str, Any]] = []
    assert hosting.residents is not None
    for number, slot in enumerate(hosting.residents.slots):
        request = None if slot.occupant is None else slot.occupant.request
        running = None if request is None else request.worker_pid
        if host.pool == SOLO and not host.yields.drained:
            running = host.pid  # asked between two turns of the same executors
        executors.append(
            {
                "slot": number,
                "state": "running" if running else "empty" if request is None else "starting",
                "id": None if request is None else request.id,
                "pid": running,
                **describe(slot.role.kind, slot.role.namespaces, slot.tally),
            }
        )
    for request in tuple(worker_state.active_requests):
        if request.name == RUN_EXECUTORS and request.occupant is None:  # it came from a queue
            executor = request.info()["executor"]
            executors.append(
                {"slot": None, "state": "running", "id": request.id, "pid": request.worker_pid, **executor}
            )
    return executors


@inspect_command(name=STATS)
def tasker_stats(state: Any) -> Any:
    """Show what the worker is as a host of executors: pool, slots, roles, executors started and ended, events."""
    found = _found(state)
    if found is None:
        return _no_host(state)
    host, hosting = found
    residents, publisher = hosting.residents, hosting.publisher
    assert residents is not None
    assert publisher is not None
    lost = residents.lost + sum(slot.failures for slot in residents.slots)
    events_lost = sum(slot.tally.counts["events_dropped"] for slot in residents.slots if slot.tally)
    return {
        "pool": host.pool,
        "slots": host.executor_slots + host.spare_slots,
        "executor_slots": host.executor_slots,
        "spare_slots": host.spare_slots,
        "drained": host.yields.drained,
        "roles": [{"kind": role.kind, "namespaces": list(role.namespaces)} for role in host.roles],
        "executors": {"started": residents.started, "ended": residents.ended, "lost": lost},
        "yields": residents.yields,
        "events": {
            "wanted": host.events.wanted,
            "published": publisher.published,
            "dropped": publisher.dropped + events_lost,
        },
    }


@control_command(name=DRAIN, args=[("resume", _typed)], signature="[resume]")
def tasker_drain(state: Any, resume: object = False) -> Any:
    """Have the worker's executors finish what they hold and start no others, or host executors again."""
    found = _found(state)
    if found is None:
        return _no_host(state)
    _, hosting = found
    assert hosting.residents is not None
    try:
        again = resume is not False and _again(resume)
    except ValueError as error:
        return {"error": str(error)}
    if again:
        return {"ok": "hosts executors again" if hosting.residents.resume() else "was not drained"}
    return {"ok": "drains its executors" if hosting.residents.drain() else "is drained already"}


@control_command(name=SCALE, args=[("executors", int)], signature="<executors>")
def tasker_scale(state: Any, executors: int) -> Any:
    """Have the worker host so many executors by itself, between what it was started with and what settings allow."""
    found = _found(state)
    if found is None:
        return _no_host(state)
    _, hosting = found
    if hosting.sizing is None:
        return {"error": f"worker {state.hostname} does not consume yet"}
    return {"ok": f"hosts {hosting.sizing.set(int(executors))} executors"}


def _found(state: Any) -> tuple[WorkerHost, HostExecutors] | None:
    host, hosting = find_host(state.hostname), hosting_step(state.consumer)
    return None if host is None or hosting is None or hosting.residents is None else (host, hosting)


def _no_host(state: Any) -> dict[str, str]:
    return {"error": f"worker {state.hostname} cannot host executors: Tasker is not installed in its app"}
