"""``tasker schedule``: workflows that are started by the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tasker.cli import moments
from tasker.cli.commands import group, one_by_one
from tasker.cli.output import Output
from tasker.cli.values import json_value, open_client, workflow_parts

if TYPE_CHECKING:
    from tasker.client.schedules import ScheduleChange
    from tasker.database.schedules import ScheduleRecord

_by = click.option("--by", help="Who says so; your login and host otherwise.")
_names = click.argument("names", metavar="NAME...", nargs=-1, required=True)
_COLUMNS = {
    "name": "schedule",
    "workflow": "workflow",
    "when": "when",
    "state": "state",
    "next_due_at": "next",
    "last_due_at": "last",
    "fired": "fired",
    "failure": "failure",
}


@group()
def schedule() -> None:
    """Schedules: workflows that are started by the clock."""


@schedule.command("add")
@click.argument("name")
@click.argument("workflow", metavar="NAMESPACE/WORKFLOW[:VERSION]")
@click.argument("context", required=False, default="{}")
@click.option("--cron", help="Minute, hour, day, month, weekday, as in '30 6 * * 1-5'; or @daily and the like.")
@click.option("--every", help="An interval instead: 90s, 15m, 12h, 7d.")
@click.option("--time-zone", default="UTC", show_default=True, help="Of the cron expression, such as Europe/Berlin.")
@click.option("--starts-at", help="Not before this time, such as 2027-01-31T08:00:00+01:00; intervals count from it.")
@click.option(
    "--catch-up",
    type=click.Choice(["last", "all", "none"]),
    default="last",
    show_default=True,
    help="Of slots that were missed while nobody ran: fire the last one, all of them, or none.",
)
@click.option("--priority", type=int, default=0, show_default=True, help="Of the tasks. Above 0: first; below 0: last.")
@click.option("--tag", "tags", multiple=True, help="Of the tasks; may be repeated.")
@click.option("--replace", is_flag=True, help="Let another schedule of this name give way.")
@_by
def add(
    name: str,
    workflow: str,
    context: str,
    every: str | None,
    starts_at: str | None,
    priority: int,
    tags: tuple[str, ...],
    **options: Any,
) -> None:
    """Start a workflow again and again, with CONTEXT (JSON, @FILE or -). Said twice it is added once."""
    namespace, workflow_name, version = workflow_parts(workflow)
    with open_client() as client:
        change = client.add_schedule(
            name,
            namespace,
            workflow_name,
            json_value(context, "context"),
            every=None if every is None else moments.interval(every, "every"),
            starts_at=None if starts_at is None else moments.moment(starts_at, "starts_at"),
            version=version,
            priority=priority,
            tags=tags,
            **options,
        )
    _show([change])


@schedule.command("list")
def list_schedules() -> None:
    """All schedules, with the slot that comes next, the last one, and why one cannot be fired."""
    with open_client() as client:
        found = client.list_schedules()
    Output().table([_row(record) for record in found], _COLUMNS, title="Schedules", empty="There are no schedules.")


@schedule.command("pause")
@_names
@_by
def pause(names: tuple[str, ...], by: str | None) -> None:
    """Fire no slots until they are resumed; what passes meanwhile is not made up for."""
    with open_client() as client:
        one_by_one(names, lambda name: client.pause_schedule(name, by=by), _show)


@schedule.command("resume")
@_names
@_by
def resume(names: tuple[str, ...], by: str | None) -> None:
    """Go on with the next slot."""
    with open_client() as client:
        one_by_one(names, lambda name: client.resume_schedule(name, by=by), _show)


@schedule.command("remove")
@_names
@_by
def remove(names: tuple[str, ...], by: str | None) -> None:
    """Forget schedules; the tasks that they started stay."""
    with open_client() as client:
        one_by_one(names, lambda name: client.remove_schedule(name, by=by), _show)


def _show(changes: list[ScheduleChange]) -> None:
    rows = [{**_row(change.schedule), "outcome": change.outcome} for change in changes]
    Output().table(rows, {"name": "schedule", "outcome": "outcome", "when": "when", "next_due_at": "next"})


def _row(record: ScheduleRecord) -> dict[str, Any]:
    every = record.every_seconds
    return {
        **vars(record),
        "workflow": f"{record.namespace}/{record.workflow}",
        "when": f"{record.cron} ({record.time_zone})" if every is None else f"every {every} s",
        "state": "paused" if record.paused_at is not None else "failing" if record.failure else "active",
    }
