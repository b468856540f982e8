"""``tasker task``: start tasks, follow them, see why they do not run, and take them in hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from tasker.cli import moments
from tasker.cli.commands import group
from tasker.cli.output import Output
from tasker.cli.values import json_value, open_client

if TYPE_CHECKING:
    from tasker.client.operations import TaskChange
    from tasker.client.tasker import Tasker
    from tasker.database.records import StepRecord, TaskRecord, TransitionRecord

_STATES = ("pending", "in_progress", "paused", "complete", "error", "cancelled", "resolved_manually")
_STEP_COLUMNS = {
    "position": "#",
    "name": "step",
    "state": "state",
    "attempts": "attempts",
    "depends_on": "after",
    "due_at": "due",
    "started_at": "started",
    "finished_at": "finished",
    "error": "error",
}

_WHY = ("task_uuid", "namespace", "name", "version", "state", "reason", "detail", "what_to_do")

_reason = click.option("--reason", help="Why, for the audit trail.")
_by = click.option("--by", help="Who says so, for the audit trail; your login and host otherwise.")
_uuid = click.argument("task_uuid", metavar="UUID", type=click.UUID)
_uuids = click.argument("task_uuids", metavar="UUID...", type=click.UUID, nargs=-1, required=True)


@group()
def task() -> None:
    """Tasks: start, follow, explain, pause, resume, cancel, retry."""


@task.command("create")
@click.argument("namespace")
@click.argument("name")
@click.argument("context", required=False, default="{}")
@click.option("--version", help="Version of the workflow; the highest otherwise.")
@click.option("--identity-key", "--key", "identity_key", help="A second task with this key is not created.")
@click.option("--priority", type=int, default=0, show_default=True, help="Above 0: first; below 0: last.")
@click.option("--run-at", help="Not before this time, such as 2027-01-31T08:00:00+01:00.")
@click.option("--tag", "tags", multiple=True, help="For finding it again; may be repeated.")
@click.option("--correlation-id", help="Of your own.")
@_reason
@click.option("--wait/--no-wait", default=False, help="Wait until it has finished; exit code 1 unless it is complete.")
@click.option("--timeout", type=float, help="Wait no longer than this many seconds.")
def create(namespace: str, name: str, context: str, wait: bool, timeout: float | None, **options: Any) -> None:
    """Start workflow NAME of NAMESPACE. CONTEXT is JSON, or @FILE, or - for standard input."""
    output = Output()
    if options["run_at"] is not None:
        options["run_at"] = moments.moment(options["run_at"], "run_at")
    value = json_value(context, "context")
    with open_client() as client:
        handle = client.create(namespace, name, value, **options)
        state = client.wait(handle, timeout).state if wait else None
        record = client.get(handle)
        shown = {"task_uuid": handle.task_uuid, "is_new": handle.is_new, "state": record.state}
        if not handle.is_new:
            shown["same_context"] = handle.same_context
        if wait:
            shown["results"] = client.results(handle)
    output.record(shown)
    if wait and state != "complete":
        raise click.exceptions.Exit(1)


@task.command("list")
@click.option("--namespace", help="Only of this namespace.")
@click.option("--name", help="Only of this workflow.")
@click.option("--version", help="Only of this version.")
@click.option(
    "--state", "states", type=click.Choice(_STATES), multiple=True, help="Only in this state; may be repeated."
)
@click.option("--tag", help="Only with this tag.")
@click.option("--correlation-id", help="Only with this correlation id.")
@click.option("--since", help="Only created at or after this time, or this long ago (90s, 15m, 12h, 7d).")
@click.option("--after", type=click.UUID, help="Go on after this task: the last of the page before.")
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many.")
def list_tasks(since: str | None, **filters: Any) -> None:
    """Tasks, newest first."""
    output = Output()
    if since is not None:
        filters["created_after"] = moments.since(since)
    with open_client() as client:
        page = client.list(**filters)
    output.table(
        [_task_row(record) for record in page.tasks],
        {
            "task_uuid": "task",
            "workflow": "workflow",
            "state": "state",
            "priority": "priority",
            "steps": "steps",
            "created_at": "created",
            "finished_at": "finished",
            "tags": "tags",
        },
        title="Tasks",
        empty="No such tasks.",
    )
    if page.next_after is not None:
        output.note(f"There are more: --after {page.next_after}")


@task.command("show")
@_uuid
@click.option("--history", is_flag=True, help="Also every state change.")
def show(task_uuid: Any, history: bool) -> None:
    """A task with its steps."""
    output = Output()
    with open_client() as client:
        record, steps = client.get(task_uuid), client.steps(task_uuid)
        transitions = client.history(task_uuid) if history else ()
    if output.as_json:
        shown = {**vars(record), "steps": [vars(step) for step in steps]}
        if history:
            shown["history"] = [vars(transition) for transition in transitions]
        output.record(shown)
        return
    output.record({key: value for key, value in vars(record).items() if value not in (None, ())}, title="Task")
    output.table([_step_row(step) for step in steps], _STEP_COLUMNS, title="Steps")
    if history:
        output.table(
            [vars(transition) for transition in transitions],
            ["at", "step", "from_state", "to_state", "fence", "actor", "reason"],
            title="History",
        )


@task.command("watch")
@_uuid
def watch(task_uuid: Any) -> None:
    """Follow a task until it has finished; exit code 1 unless it is complete."""
    output = Output()
    with open_client() as client:
        if output.is_terminal:
            with output.live(_STEP_COLUMNS, title=f"Task {task_uuid}") as view:
                for _ in client.watch(task_uuid):
                    view.update([_step_row(step) for step in client.steps(task_uuid)])
        else:
            for transition in client.watch(task_uuid):
                output.event(_sentence(transition), vars(transition))
        record = client.get(task_uuid)
    output.note(f"Task {task_uuid} is {record.state}.")
    if record.state != "complete":
        raise click.exceptions.Exit(1)


@task.command("why")
@_uuid
def why(task_uuid: Any) -> None:
    """Why a task is not running, step by step, and what to do about it."""
    output = Output()
    with open_client() as client:
        found = client.why(task_uuid)
    if output.as_json:
        output.record(found)
        return
    output.record({key: found[key] for key in _WHY})
    if found["steps"]:
        output.table(
            found["steps"], ["step", "state", "reason", "detail", "what_to_do"], title="Steps that have not ended"
        )


@task.command("cancel")
@_uuids
@_reason
@_by
def cancel(task_uuids: tuple[Any, ...], reason: str | None, by: str | None) -> None:
    """End tasks at once; results of steps that run count no more."""
    _change(task_uuids, lambda client, task_uuid: client.cancel(task_uuid, reason=reason, by=by))


@task.command("pause")
@_uuids
@_reason
@_by
def pause(task_uuids: tuple[Any, ...], reason: str | None, by: str | None) -> None:
    """Let running steps finish and start no others."""
    _change(task_uuids, lambda client, task_uuid: client.pause(task_uuid, reason=reason, by=by))


@task.command("resume")
@_uuids
@_reason
@_by
def resume(task_uuids: tuple[Any, ...], reason: str | None, by: str | None) -> None:
    """Go on with paused tasks."""
    _change(task_uuids, lambda client, task_uuid: client.resume(task_uuid, reason=reason, by=by))


@task.command("retry")
@_uuids
@_reason
@_by
def retry(task_uuids: tuple[Any, ...], reason: str | None, by: str | None) -> None:
    """Run failed tasks again from their failed steps; finished work is not done again."""
    _change(task_uuids, lambda client, task_uuid: client.retry(task_uuid, reason=reason, by=by))


@task.command("resolve-step")
@_uuid
@click.argument("step")
@click.argument("results")
@_reason
@_by
def resolve_step(task_uuid: Any, step: str, results: str, reason: str | None, by: str | None) -> None:
    """Settle STEP (name or uuid) by hand: the task goes on as if it had returned RESULTS (JSON, @FILE or -)."""
    value = json_value(results, "results")
    _change((task_uuid,), lambda client, found: client.resolve_step(found, step, value, reason=reason, by=by))


def _change(task_uuids: tuple[Any, ...], act: Callable[[Tasker, Any], TaskChange]) -> None:
    """Do the same to each task; the first that refuses ends it, and those before are reported."""
    done: list[TaskChange] = []
    try:
        with open_client() as client:
            for task_uuid in task_uuids:
                change = act(client, task_uuid)
                done.append(change)
    finally:
        if done:
            rows = [vars(change) for change in done]
            Output().table(rows, {"task_uuid": "task", "changed": "changed", "state": "state"})


def _task_row(record: TaskRecord) -> dict[str, Any]:
    return {
        **vars(record),
        "workflow": f"{record.namespace}/{record.name} {record.version}",
        "steps": f"{record.active} of {record.total} live" if record.finished_at is None else f"{record.total}",
    }


def _step_row(step: StepRecord) -> dict[str, Any]:
    error = step.error
    if isinstance(error, dict):
        error = ": ".join(str(part) for part in (error.get("type"), error.get("message")) if part)
    return {**vars(step), "attempts": f"{step.attempts}/{step.max_attempts}", "error": error}


def _sentence(transition: TransitionRecord) -> str:
    what = "task" if transition.step is None else transition.step
    moment = transition.at.astimezone().strftime("%H:%M:%S.%f")[:-3]
    change = f"{transition.from_state or 'new'} → {transition.to_state}"
    return f"{moment}  {what}  {change}" + (f"  ({transition.reason})" if transition.reason else "")
