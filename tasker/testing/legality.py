"""Whether what happened in a test's database is legal."""

from __future__ import annotations

from tasker.core import OrchestrationCore
from tasker.database.verification import verify_connection


def broken_rules(core: OrchestrationCore) -> list[str]:
    """What ``tasker db verify`` finds wrong with the core's database; an empty list when its history is legal.

    For tests that change tasks by SQL of their own, or that kill workers. What the engine will put right by itself is
    not listed: steps of a worker that was killed a moment ago, for example.

    Args:
        core: whose database is judged, by its clock.

    Returns:
        A line for each row, at most ten for each rule.

    Raises:
        psycopg.Error: the database cannot be reached, or refuses.
    """
    with core.database.connection() as connection:
        report = verify_connection(connection)
    found = [f"{finding.rule.name}: {example}" for finding in report.violations for example in finding.examples]
    return found + [f"{name} could not be checked: {reason}" for name, reason in report.unchecked.items()]
