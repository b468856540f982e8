"""``tasker executor``: who runs steps and moves tasks along."""

from __future__ import annotations

import click

from tasker.cli.commands import group
from tasker.cli.output import Output


@group()
def executor() -> None:
    """Executors: units that run steps or move tasks along, hosted by workers."""


@executor.command("list")
@click.option("--all", "every", is_flag=True, help="Also those that were lost.")
def list_executors(every: bool) -> None:
    """The executors with their heartbeat, and how many calls' steps they hold."""
    from tasker.client.tasker import Tasker
    from tasker.database import functions, reads

    with Tasker() as client, client.database.connection() as connection:
        found = functions.run(connection, reads.executors(include_lost=every))
    rows = [{**vars(record), "state": _state(record.stop_requested, record.idle, record.lost_at)} for record in found]
    Output().table(
        rows,
        {
            "executor": "executor",
            "kind": "kind",
            "worker": "worker",
            "pid": "pid",
            "state": "state",
            "claims": "claims",
            "queues": "queues",
            "heartbeat_age_seconds": "heartbeat (s ago)",
        },
        title="Executors",
        empty="No executors: start a worker with `celery -A tasker worker`, or all with `tasker up`.",
    )


def _state(stop_requested: bool, idle: bool, lost_at: object) -> str:
    if lost_at is not None:
        return "lost"
    return "stopping" if stop_requested else "idle" if idle else "busy"
