"""``tasker worker``: the Celery workers that host executors."""

from __future__ import annotations

from typing import Any

import click

from tasker.cli.commands import group
from tasker.cli.output import Output
from tasker.cli.remote import ask, expect, remote_options


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


@worker.command("executors")
@click.argument("workers", nargs=-1, metavar="[WORKER]...")
@remote_options
def list_executors(workers: tuple[str, ...], app: str, timeout: float) -> None:
    """What runs in the slots of workers, asked of themselves: kind, namespaces, since when, and counts.

    held: steps held now; done, failed, returned: steps completed, attempts failed, steps given back unstarted; taken:
    what orchestration took. All since the executor began.
    """
    from tasker.hosting.remote import EXECUTORS

    answers = ask(EXECUTORS, app=app, timeout=timeout, workers=workers)
    rows: list[dict[str, Any]] = []
    for hostname, executors in answers.items():
        if isinstance(executors, dict):
            Output().note(str(executors.get("error")))
            continue
        rows += [{"worker": hostname, **executor} for executor in executors]
    names = {"held": "held", "completed": "done", "failed": "failed", "released": "returned", "taken": "taken"}
    Output().table(
        rows if Output().as_json else [{**row, **{name: row["counts"].get(name, 0) for name in names}} for row in rows],
        {
            "worker": "worker",
            "slot": "slot",
            "kind": "kind",
            "namespaces": "namespaces",
            "state": "state",
            "pid": "pid",
            "since": "since",
            **names,
        },
        title="Executors",
        empty="The workers that answered have no slots for executors.",
    )
    expect(workers, answers, timeout)


@worker.command("stats")
@click.argument("workers", nargs=-1, metavar="[WORKER]...")
@remote_options
def show_stats(workers: tuple[str, ...], app: str, timeout: float) -> None:
    """What workers are as hosts, asked of themselves: pool, slots, executors started, ended and lost, events of steps.

    yields: how often an executor was asked to give way to an ordinary task; drained: by `tasker drain`.
    """
    from tasker.hosting.remote import STATS

    answers = ask(STATS, app=app, timeout=timeout, workers=workers)
    rows: list[dict[str, Any]] = []
    for hostname, stats in answers.items():
        if "error" in stats:
            Output().note(str(stats["error"]))
            continue
        rows.append({"worker": hostname, **stats})
    shown = [
        {
            **row,
            **row["executors"],
            "published": row["events"]["published"],
            "dropped": row["events"]["dropped"],
            "events": "on" if row["events"]["wanted"] else "off",
        }
        for row in rows
    ]
    Output().table(
        rows if Output().as_json else shown,
        {
            "worker": "worker",
            "pool": "pool",
            "executor_slots": "slots",
            "spare_slots": "spare",
            "drained": "drained",
            "started": "started",
            "ended": "ended",
            "lost": "lost",
            "yields": "yields",
            "events": "events",
            "published": "sent",
            "dropped": "dropped",
        },
        title="Workers as hosts",
        empty="None of the workers that answered can host executors.",
    )
    expect(workers, answers, timeout)
