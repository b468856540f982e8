"""``tasker health``: whether the system works, and what is wrong with it."""

from __future__ import annotations

import click

from tasker.cli.commands import command
from tasker.cli.output import Output


@command()
def health() -> None:
    """Whether database, queues, workers, pools, circuits and ticks are well; the same as GET /health/detailed.

    Ends with 1 when something is unhealthy. A database that cannot be reached is one such answer.
    """
    from tasker.cli.values import open_client
    from tasker.config.manager import ConfigManager
    from tasker.coordinator.health import Status, read_health

    with open_client() as client:
        found = read_health(client.database, ConfigManager.load())
    output = Output()
    if output.as_json:
        output.record(found.detailed())
    else:
        output.record(
            {
                "status": found.status.value,
                "operational state": found.operational_state,
                "coordinator": "runs" if found.coordinator.running else "does not run",
                "alerts": "; ".join(found.alerts) or "none",
            },
            title="Health",
        )
        output.table(
            [
                {"component": name, "status": each.status.value, "message": each.message}
                for name, each in found.components.items()
            ],
            ["component", "status", "message"],
            title="Components",
        )
        output.table(
            [
                {
                    "kind": kind,
                    "healthy": pool.healthy,
                    "unhealthy": pool.unhealthy,
                    "target": pool.target,
                    "bounds": f"{pool.min}-{pool.max}",
                    "utilization": f"{pool.utilization:.0%}",
                    "throughput": f"{pool.throughput:.1f}/s",
                    "backlog": pool.backlog,
                }
                for kind, pool in found.pools.items()
            ],
            ["kind", "healthy", "unhealthy", "target", "bounds", "utilization", "throughput", "backlog"],
            title="Pools",
        )
    if found.status is Status.UNHEALTHY:
        raise click.exceptions.Exit(1)
