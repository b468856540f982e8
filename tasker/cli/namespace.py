"""``tasker namespace``: what a namespace may take on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from tasker.cli.commands import group, one_by_one
from tasker.cli.output import Output
from tasker.cli.values import open_client

if TYPE_CHECKING:
    from tasker.database.records import NamespaceRecord

_COLUMNS = {
    "name": "namespace",
    "state": "state",
    "max_concurrency": "at once",
    "rate": "rate",
    "admission": "new tasks",
    "why": "why",
}
_ADMISSION = {"open": "start", "soft": "wait", "hard": "are refused"}


@group()
def namespace() -> None:
    """Namespaces: pause them, and limit how many of their steps run."""


@namespace.command("list")
def list_namespaces() -> None:
    """All namespaces, with their limits, and what becomes of new tasks."""
    with open_client() as client:
        _show(client.list_namespaces())


@namespace.command("pause")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--reason", help="Why.")
@click.option("--by", help="Who says so; your login and host otherwise.")
def pause(names: tuple[str, ...], reason: str | None, by: str | None) -> None:
    """Let what runs finish, and start nothing more until they are resumed."""
    with open_client() as client:
        one_by_one(names, lambda name: client.pause_namespace(name, reason=reason, by=by), _show)


@namespace.command("resume")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--by", help="Who says so; your login and host otherwise.")
def resume(names: tuple[str, ...], by: str | None) -> None:
    """Go on."""
    with open_client() as client:
        one_by_one(names, lambda name: client.resume_namespace(name, by=by), _show)


@namespace.command("limit")
@click.argument("name")
@click.option("--max-concurrency", type=click.IntRange(0), help="Steps of its queue that run at once; 0 for any.")
@click.option("--rate", metavar="COUNT/SECONDS", help="Steps of its queue that start in a time, as 100/60; 0 for any.")
def limit(name: str, max_concurrency: int | None, rate: str | None) -> None:
    """Limit how many steps run at once, and how many start in a time. What is not named stays as it is."""
    limits: dict[str, Any] = {}
    if max_concurrency is not None:
        limits["max_concurrency"] = max_concurrency or None
    if rate is not None:
        limits["rate"] = _rate(rate)
    if not limits:
        raise click.UsageError("say --max-concurrency, --rate, or both")
    with open_client() as client:
        _show([client.limit_namespace(name, **limits)])


def _rate(text: str) -> tuple[int, float] | None:
    if text == "0":
        return None
    count, _, seconds = text.partition("/")
    try:
        return int(count), float(seconds or 1)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no rate; say COUNT/SECONDS, as 100/60", param_hint="--rate") from None


def _show(found: Iterable[NamespaceRecord]) -> None:
    Output().table([_row(record) for record in found], _COLUMNS, title="Namespaces", empty="There are no namespaces.")


def _row(record: NamespaceRecord) -> dict[str, Any]:
    paused = record.paused_at is not None
    by = f"paused by {record.paused_by}" if record.paused_by else "paused"
    return {
        **vars(record),
        "state": "paused" if paused else "active",
        "rate": None if record.rate_count is None else f"{record.rate_count} in {record.rate_seconds:g} s",
        "admission": _ADMISSION[record.admission],
        "why": "; ".join(
            part
            for part in (
                (f"{by}: {record.paused_reason}" if record.paused_reason else by) if paused else None,
                record.admission_reason,
            )
            if part
        ),
    }
