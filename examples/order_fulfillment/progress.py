"""How far the orders are, and what came of them, for people to look at."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import psycopg

from order_fulfillment.checks import OUR_TASKS
from order_fulfillment.submissions import NAMESPACE, WORKFLOW

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class StepProgress:
    """One step of all orders.

    Attributes:
        name: of the step.
        namespace: whose queue it goes through.
        waiting: enqueued, not started.
        running: in the hands of an executor.
        retrying: failed, waiting for the next attempt.
        complete: done.
        refused: ended in error.
    """

    name: str
    namespace: str
    waiting: int
    running: int
    retrying: int
    complete: int
    refused: int


@dataclass(frozen=True)
class Progress:
    """All orders at one moment.

    Attributes:
        finished: tasks that have ended, whatever way.
        steps: each step, in the order of the graph.
        seconds: from the creation of the first task to the end of the last one so far.
    """

    finished: int
    steps: tuple[StepProgress, ...]
    seconds: float

    @property
    def steps_ended(self) -> int:
        """Steps that were done or refused."""
        return sum(step.complete + step.refused for step in self.steps)


def read_progress(connection: Connection) -> Progress:
    """Where everything stands now."""
    ((finished, seconds),) = connection.execute(
        """SELECT count(finished_at),
                  coalesce(extract(epoch FROM max(finished_at) - min(tasks.created_at)), 0)::float8
             FROM tasker.tasks JOIN tasker.named_tasks USING (named_task_id) WHERE namespace = %s AND name = %s""",
        (NAMESPACE, WORKFLOW),
    ).fetchall()
    rows = connection.execute(
        """SELECT named.name, named.namespace,
                  count(*) FILTER (WHERE step.state = 'enqueued'), count(*) FILTER (WHERE step.state = 'in_progress'),
                  count(*) FILTER (WHERE step.state = 'waiting_for_retry'),
                  count(*) FILTER (WHERE step.state = 'complete'), count(*) FILTER (WHERE step.state = 'error')
             FROM tasker.named_tasks JOIN tasker.named_steps AS named USING (named_task_id)
             LEFT JOIN (tasker.workflow_steps AS step JOIN tasker.tasks USING (task_uuid))
                  USING (named_task_id, position)
            WHERE named_tasks.namespace = %s AND named_tasks.name = %s
            GROUP BY named.position, named.name, named.namespace ORDER BY named.position""",
        (NAMESPACE, WORKFLOW),
    ).fetchall()
    return Progress(finished, tuple(StepProgress(*row) for row in rows), seconds)


@dataclass(frozen=True)
class Outcomes:
    """What came of all orders.

    Attributes:
        fulfilled: orders shipped and closed.
        refused: orders refused, by reason.
        takings_cents: paid and not refunded.
        outages: attempts that failed and were followed by another.
        recovered: steps that were done in the end after such an attempt.
        repeated_runs: runs that found their work done already, and did nothing.
        losses: times that a step was taken back from an executor that had died.
        outbox: messages, by channel.
    """

    fulfilled: int
    refused: dict[str, int]
    takings_cents: int
    outages: int
    recovered: int
    repeated_runs: int
    losses: int
    outbox: dict[str, int]


def read_outcomes(connection: Connection) -> Outcomes:
    """What came of everything so far."""
    orders: Counter[str | None] = Counter()
    takings = 0
    for refusal, count, cents in connection.execute(
        """SELECT refusal, count(*), coalesce(sum(total_cents) FILTER (WHERE state = 'fulfilled'), 0) FROM shop.orders
            WHERE state <> 'open' GROUP BY refusal"""
    ):
        orders[refusal] += count
        takings += cents
    ((outages, recovered, repeated, losses),) = connection.execute(
        f"""WITH ours AS ({OUR_TASKS}),
                 steps AS (SELECT * FROM tasker.workflow_steps JOIN ours USING (task_uuid))
            SELECT (SELECT count(*) FROM tasker.workflow_step_transitions JOIN ours USING (task_uuid)
                     WHERE to_state = 'waiting_for_retry'),
                   (SELECT count(*) FROM steps WHERE attempts > 1 AND state = 'complete'),
                   (SELECT coalesce(sum(runs - 1), 0)::bigint FROM shop.steps_done),
                   (SELECT coalesce(sum(losses), 0)::bigint FROM steps)"""
    ).fetchall()
    outbox = connection.execute("SELECT channel, count(*) FROM shop.outbox GROUP BY channel ORDER BY 1").fetchall()
    return Outcomes(
        fulfilled=orders.pop(None, 0),
        refused={str(reason): count for reason, count in orders.most_common()},
        takings_cents=takings,
        outages=outages,
        recovered=recovered,
        repeated_runs=repeated,
        losses=losses,
        outbox=dict(outbox),
    )
