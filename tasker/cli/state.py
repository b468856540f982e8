"""``tasker state``: what the whole system is doing on purpose."""

from __future__ import annotations

import getpass
import socket

import click

from tasker.cli.commands import group
from tasker.cli.output import Output

_STATES = ("startup", "normal", "graceful_shutdown", "emergency", "stopped")


@group()
def state() -> None:
    """The operational state, on which health and alerts depend: it starts, works, or ends on purpose."""


@state.command("show")
@click.option("--history", type=click.IntRange(0, 1000), default=10, show_default=True, help="Changes to show.")
def show(history: int) -> None:
    """The state, since when, by whom and why, and the changes before."""
    from tasker.cli.values import open_client
    from tasker.coordinator.operational_state import OperationalState

    with open_client() as client, client.database.connection() as connection:
        operational = OperationalState(connection)
        now, changes = operational.current(), operational.history(history) if history else ()
    record = {"state": now.state, "since": now.changed_at, "by": now.changed_by, "reason": now.reason}
    rows = [
        {"at": each.at, "from": each.from_state, "to": each.to_state, "by": each.actor, "reason": each.reason}
        for each in changes
    ]
    output = Output()
    if output.as_json:
        output.record({**record, "history": rows})
        return
    output.record(record, title="Operational state")
    if rows:
        output.table(rows, ["at", "from", "to", "by", "reason"], title="Changes")


@state.command("set")
@click.argument("wanted", metavar="STATE", type=click.Choice(_STATES))
@click.option("--reason", help="Why; it stands in the history.")
@click.option("--by", help="Who says so; your login and host otherwise.")
def set_state(wanted: str, reason: str | None, by: str | None) -> None:
    """Declare a shutdown before a deploy, an emergency, or that one is over (startup).

    Workers and ticks say the rest themselves. A move that makes no sense is refused.
    """
    from tasker.cli.values import open_client
    from tasker.coordinator.operational_state import OperationalState

    who = by or f"{getpass.getuser()}@{socket.gethostname()}"
    with open_client() as client, client.database.connection() as connection, connection.transaction():
        change = OperationalState(connection).set(wanted, by=who, reason=reason)
    said = f"{change.before} → {change.state}" if change.changed else f"It is {change.state} already."
    Output().text(said, **{"from": change.before, "state": change.state, "changed": change.changed})
