"""What beat sends: the coordinator's ticks, and the drains where orchestration is not resident."""

from __future__ import annotations

from typing import Any

from tasker.config.settings import Settings
from tasker.executors.executor import ORCHESTRATION_KINDS
from tasker.hosting.roles import ORCHESTRATION_QUEUE
from tasker.hosting.tasks import COORDINATOR_TICK, DRAIN_EXECUTOR

SHORTEST_PERIOD_SECONDS = 1.0
"""Beat is no busy loop: drains come this often at most, however short the kind's ``polling_interval_ms`` is."""


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Celery's ``beat_schedule``. Entries expire within their period, so that none pile up while no worker listens."""
    orchestration = settings.orchestration
    entries = {"tasker-tick": _entry(COORDINATOR_TICK, (), float(orchestration.health_check_interval_seconds))}
    if orchestration.hosting == "periodic":
        for kind in ORCHESTRATION_KINDS:
            pool = settings.executor_pools[kind.value]
            period = max(SHORTEST_PERIOD_SECONDS, pool.polling_interval_ms / 1000)
            entries[f"tasker-drain-{kind.value}"] = _entry(DRAIN_EXECUTOR, (kind.value,), period)
    return entries


def _entry(task: str, args: tuple[Any, ...], period_seconds: float) -> dict[str, Any]:
    return {
        "task": task,
        "schedule": period_seconds,
        "args": args,
        # Nobody asks for these results: they are in the log and in the task's event.
        "options": {"queue": ORCHESTRATION_QUEUE, "expires": period_seconds, "ignore_result": True},
    }
