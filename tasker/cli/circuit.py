"""``tasker circuit``: external systems, and whether they are called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tasker.cli.commands import group
from tasker.cli.output import Output
from tasker.cli.values import open_client

if TYPE_CHECKING:
    from tasker.database.circuits import CircuitRecord

_names = click.argument("names", metavar="NAME...", nargs=-1, required=True)
_reason = click.option("--reason", help="Why; kept with the circuit.")
_by = click.option("--by", help="Who says so; your login and host otherwise.")
_COLUMNS = {
    "name": "system",
    "shown": "state",
    "failures": "failures",
    "parked": "steps waiting",
    "since": "since",
    "retry": "next try",
    "reason": "reason",
    "changed_by": "by",
}


@group()
def circuit() -> None:
    """Circuits: external systems, and whether they are called."""


@circuit.command("list")
def list_circuits() -> None:
    """All systems that ever failed, with their state and how many steps wait for them."""
    from tasker.database import circuits, functions

    with open_client() as client, client.database.connection() as connection:
        found = functions.run(connection, circuits.circuits())
    Output().table(
        [_row(record) for record in found],
        _COLUMNS,
        title="Circuits",
        empty="No system has failed yet: circuits come with the first failure.",
    )


@circuit.command("open")
@_names
@_reason
@_by
def open_circuit(names: tuple[str, ...], reason: str | None, by: str | None) -> None:
    """Call these systems no more, in all workers, until somebody closes them. Steps that need them wait."""
    _change(names, "open", reason, by)


@circuit.command("close")
@_names
@_reason
@_by
def close(names: tuple[str, ...], reason: str | None, by: str | None) -> None:
    """Call these systems again, now. The steps that waited go on, a few first, then ever more."""
    _change(names, "close", reason, by)


@circuit.command("reset")
@_names
@_reason
@_by
def reset(names: tuple[str, ...], reason: str | None, by: str | None) -> None:
    """Close these circuits where they are not, and forget the failures counted so far."""
    _change(names, "reset", reason, by)


def _change(names: tuple[str, ...], action: str, reason: str | None, by: str | None) -> None:
    from tasker.client.core import user_at_host
    from tasker.database import circuits, functions

    with open_client() as client, client.database.connection() as connection:
        changed = {}
        for name in names:
            request = {"name": name, "action": action, "by": by or user_at_host(), "reason": reason}
            changed[name] = functions.run(connection, functions.set_circuit(request))["changed"]
        found = {record.name: record for record in functions.run(connection, circuits.circuits())}
    unused = {"state": "closed", "shown": "closed", "parked": 0}
    rows = [
        {"name": name, "changed": changed[name], **(_row(found[name]) if name in found else unused)} for name in names
    ]
    Output().table(rows, {"name": "system", "shown": "state", "changed": "changed", "parked": "steps waiting"})


def _row(record: CircuitRecord) -> dict[str, Any]:
    wait = record.retry_after_seconds
    state = record.state.replace("_", " ")
    return {
        **vars(record),
        "since": record.opened_at,
        "shown": f"{state} (by hand)" if record.forced else state,
        "retry": None if wait is None else f"in {wait:.0f} s",
    }
