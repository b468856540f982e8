"""``tasker dlq``: dead letters, which are steps that failed for good and messages that nobody could understand."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tasker.cli import moments
from tasker.cli.commands import group, wants_json
from tasker.cli.output import Output
from tasker.cli.values import json_value, open_client

if TYPE_CHECKING:
    from tasker.client.dead_letters import DeadLetterChange
    from tasker.client.tasker import Tasker
    from tasker.database.records import DeadLetterRecord

F = TypeVar("F", bound=Callable[..., Any])
Settle = Callable[..., "DeadLetterChange"]

_reason = click.option("--reason", help="Why, for the audit trail.")
_by = click.option("--by", help="Who says so, for the audit trail; your login and host otherwise.")
_ids = click.argument("ids", metavar="[ID]...", type=click.IntRange(min=1), nargs=-1)
_COLUMNS = {
    "id": "letter",
    "created_at": "since",
    "reason": "reason",
    "about": "about",
    "task_uuid": "task",
    "error": "error",
}


def _conditions(command: F) -> F:
    """The options that say which letters are meant; all of them must hold."""
    for option in reversed(
        (
            click.option("--kind", type=click.Choice(["step", "message"]), help="Only steps, or only messages."),
            click.option("--namespace", help="Only of this namespace."),
            click.option("--workflow", help="Only of this workflow, by name."),
            click.option("--version", help="Only of this version of it."),
            click.option("--step", help="Only of this step, by name."),
            click.option("--failure", help="Only with this reason, such as poison, timeout or ValueError."),
            click.option("--queue", help="Only of this queue."),
            click.option("--task", "task_uuid", type=click.UUID, help="Only of this task."),
            click.option("--since", help="Only from this time on, or from so long ago (90s, 15m, 12h, 7d)."),
            click.option("--older-than", help="Only those that have been there so long (90s, 15m, 12h, 7d)."),
        )
    ):
        command = option(command)
    return command


_everything = click.option("--all", "everything", is_flag=True, help="All that are open.")
_yes = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


@group()
def dlq() -> None:
    """Dead letters: steps that failed for good, and messages that were not understood."""


@dlq.command("list")
@_conditions
@click.option("--closed", "include_closed", is_flag=True, help="Also those that were dealt with.")
@click.option("--after", type=click.IntRange(min=1), help="Go on after this letter: the last of the page before.")
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many.")
def list_letters(include_closed: bool, after: int | None, limit: int, **conditions: Any) -> None:
    """Dead letters, newest first."""
    output = Output()
    with open_client() as client:
        page = client.dead_letters(include_closed=include_closed, after=after, limit=limit, **_given(conditions))
    columns = _COLUMNS | ({"resolution": "dealt with", "resolved_by": "by"} if include_closed else {})
    output.table([_row(letter) for letter in page.letters], columns, title="Dead letters", empty="No dead letters.")
    if page.next_after is not None:
        output.note(f"There are more: --after {page.next_after}")


@dlq.command("show")
@click.argument("letter", metavar="ID", type=click.IntRange(min=1))
def show(letter: int) -> None:
    """A dead letter: what it is about, what its reason means, and what to do."""
    from tasker.client.dead_letters import meaning_of

    output = Output()
    with open_client() as client:
        record = client.dead_letter(letter)
    meaning, advice = meaning_of(record)
    shown = {**vars(record), "meaning": meaning, "what_to_do": advice}
    if not output.as_json:
        shown = {key: value for key, value in shown.items() if value is not None and key != "snapshot"}
        if not record.is_open:
            del shown["what_to_do"]
    output.record(shown, title="Dead letter")


@dlq.command("retry")
@_ids
@_conditions
@_everything
@_yes
@click.option("--message", help="Of one message: what to send in its place (JSON, @FILE or -).")
@_reason
@_by
def retry(
    ids: tuple[int, ...],
    everything: bool,
    yes: bool,
    message: str | None,
    reason: str | None,
    by: str | None,
    **conditions: Any,
) -> None:
    """Run steps again with fresh attempts, and send messages back to their queues; tasks go on from there.

    Say which by ID, by conditions, or --all. Of a task only the steps of these letters run again. Exit code 1 if one
    of them was refused.
    """
    more: dict[str, Any] = {} if message is None else {"message": json_value(message, "message")}
    _settle(
        "retry",
        "retried",
        lambda client: client.retry_dead_letters,
        ids,
        conditions,
        everything=everything,
        yes=yes,
        reason=reason,
        by=by,
        **more,
    )


@dlq.command("dismiss")
@_ids
@_conditions
@_everything
@_yes
@_reason
@_by
def dismiss(
    ids: tuple[int, ...], everything: bool, yes: bool, reason: str | None, by: str | None, **conditions: Any
) -> None:
    """Put messages away without sending them again; say which as for retry. Steps are retried or resolved."""
    _settle(
        "dismiss",
        "dismissed",
        lambda client: client.dismiss_dead_letters,
        ids,
        conditions,
        everything=everything,
        yes=yes,
        reason=reason,
        by=by,
    )


@dlq.command("resolve")
@click.argument("letter", metavar="ID", type=click.IntRange(min=1))
@click.argument("results")
@_reason
@_by
def resolve(letter: int, results: str, reason: str | None, by: str | None) -> None:
    """Settle a step by hand: its task goes on as if it had returned RESULTS (JSON, @FILE or -)."""
    value = json_value(results, "results")
    with open_client() as client:
        change = client.resolve_dead_letter(letter, value, reason=reason, by=by)
    Output().record({"letter": letter, **vars(change)})


def _settle(
    verb: str,
    done: str,
    method: Callable[[Tasker], Settle],
    ids: tuple[int, ...],
    conditions: dict[str, Any],
    *,
    everything: bool,
    yes: bool,
    **more: Any,
) -> None:
    given = _given(conditions)
    if sum((bool(ids), bool(given), everything)) != 1:
        raise click.UsageError(f"Say which letters to {verb}: by ID, by conditions (see --help), or --all.")
    if everything and not yes:
        if wants_json():
            raise click.UsageError(f"To {verb} all letters, say --yes too: --json asks no questions.")
        click.confirm(f"{verb.capitalize()} all open dead letters?", abort=True, err=True)
    output = Output()
    with open_client() as client, output.progress() as say:
        change = method(client)(
            ids or None, everything=everything, progress=lambda n: say(f"{n:,} {done}"), **given, **more
        )
    if output.as_json:
        output.record({done: change.done, "tasks": change.tasks, "refused": [vars(each) for each in change.refused]})
    else:
        go_on = f"; {change.tasks:,} tasks go on" if change.tasks else ""
        output.text(f"{change.done:,} {done}{go_on}.")
        if change.refused:
            output.table(
                [vars(each) for each in change.refused], {"id": "letter", "reason": "refused since"}, title="Refused"
            )
    if change.refused:
        raise click.exceptions.Exit(1)


def _given(conditions: dict[str, Any]) -> dict[str, Any]:
    """The conditions that were given, as the client takes them."""
    found = {key: value for key, value in conditions.items() if value is not None}
    if (since := found.pop("since", None)) is not None:
        found["created_after"] = moments.since(since)
    if (age := found.pop("older_than", None)) is not None:
        found["created_before"] = dt.datetime.now(dt.UTC) - moments.interval(age, "older_than")
    return found


def _row(letter: DeadLetterRecord) -> dict[str, Any]:
    about = letter.queue if letter.kind == "message" else f"{letter.namespace}/{letter.workflow} {letter.step}"
    error = letter.error
    if isinstance(error, dict):
        error = error.get("message")
    return {**vars(letter), "about": about, "error": error if error is not None else letter.message}
