"""``tasker worker``: the Celery workers that host executors."""

from __future__ import annotations

from tasker.cli.commands import group
from tasker.cli.output import Output


@group()
def worker() -> None:
    """Celery workers that host executors."""


@worker.command("list")
def list_workers() -> None:
    """The workers, as they registered themselves; `celery -A tasker status` asks them directly."""
    from tasker.client.tasker import Tasker
    from tasker.database import functions, reads

    with Tasker() as client, client.database.connection() as connection:
        rows = [vars(record) for record in functions.run(connection, reads.workers())]
    Output().table(
        rows,
        {
            "hostname": "worker",
            "pool": "pool",
            "concurrency": "slots",
            "executors": "executors",
            "queues": "queues",
            "started_at": "started",
            "heartbeat_age_seconds": "heartbeat (s ago)",
        },
        title="Workers",
        empty="No workers have registered: start one with `celery -A tasker worker`, or all with `tasker up`.",
    )
