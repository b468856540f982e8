"""``tasker pool``: how many executors there are and shall be, and why that changed."""

from __future__ import annotations

from typing import Any

import click

from tasker.cli.commands import group
from tasker.cli.output import Output


@group()
def pool() -> None:
    """Pools: the executors of a kind, or those that serve a queue, whose number follows what they have to do."""


@pool.command("list")
def list_pools() -> None:
    """The pools: how many executors live and shall live, how busy they are, and what waits for them."""
    from tasker.cli.values import open_client
    from tasker.coordinator.pools import rates_of
    from tasker.database import pools
    from tasker.database.calls import run

    with open_client() as client, client.database.connection() as connection:
        found = run(connection, pools.pool_measures())
    rows: list[dict[str, Any]] = []
    for each in found:
        rates = rates_of(each)
        rows.append(
            {
                "kind": each.kind,
                "queue": each.queue,
                "executors": each.executors,
                "requested": each.requested,
                "target": None if each.evaluated_seconds is None else each.target,
                "healthy": each.healthy,
                "unhealthy": each.unhealthy,
                "utilization": round(rates.utilization, 3),
                "throughput": round(rates.throughput, 3),
                "backlog": each.backlog,
                "oldest_seconds": each.oldest_seconds,
            }
        )
    Output().table(
        rows,
        {
            "kind": "kind",
            "queue": "queue",
            "executors": "executors",
            "target": "target",
            "healthy": "healthy",
            "unhealthy": "unhealthy",
            "utilization": "utilization",
            "throughput": "items/s",
            "backlog": "backlog",
            "oldest_seconds": "oldest (s)",
        },
        title="Pools",
    )


@pool.command("decisions")
@click.option("--kind", help="Only of this kind of executor.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many, the newest first."
)
def list_decisions(kind: str | None, limit: int) -> None:
    """Changes of pools' targets, with the reason and what was measured."""
    from tasker.cli.values import open_client
    from tasker.database import pools
    from tasker.database.calls import run

    with open_client() as client, client.database.connection() as connection:
        found = run(connection, pools.scaling_decisions(limit=limit, kind=kind))
    Output().table(
        [
            {
                "at": each.at,
                "kind": each.kind,
                "queue": each.queue,
                "direction": each.direction,
                "from": each.from_target,
                "to": each.to_target,
                "reason": each.reason,
                "detail": each.detail,
                "measures": dict(each.measures),
            }
            for each in found
        ],
        ["at", "kind", "queue", "from", "to", "reason", "detail"],
        title="Decisions",
        empty="No pool has changed its size.",
    )
