"""Chains stay with their executor for a while, and the queue is never starved by them."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tasker.database.connection import Database
from tasker.executors import outcomes, watchdog
from tests.integration.executors.engine import Engine
from tests.integration.executors.steps import chain

pytestmark = pytest.mark.orchestration


@pytest.fixture(autouse=True)
def _as_on_a_machine_that_is_never_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hops and shares are counted here. A chain that takes its time returns to the queue for that reason alone."""
    monkeypatch.setattr(outcomes, "MAX_CHAIN_SECONDS", float("inf"))
    monkeypatch.setattr(watchdog, "UNSTARTED_SECONDS", float("inf"))


def _known(engine: Engine) -> None:
    engine.connection.execute("UPDATE tasker.named_steps SET expected_ms = 0.1")


def test_a_chain_costs_one_call_per_step_and_never_touches_the_queue_again(engine: Engine) -> None:
    engine.workflow(*chain(*[lambda ctx: {}] * 4))
    engine.create()
    counters = engine.run_until_idle().counters.snapshot()

    assert counters["claims"] == 1
    assert counters["completions"] == 4
    assert counters["continued"] == 3
    assert engine.value("SELECT count(*) FROM tasker.workflow_step_transitions WHERE to_state = 'enqueued'") == 1


def test_a_chain_returns_to_the_queue_after_eight_hops(engine: Engine) -> None:
    engine.workflow(*chain(*[lambda ctx: {}] * 20))
    _known(engine)
    (task,) = engine.create()
    engine.run_until_idle()

    assert engine.task_states() == {"complete": 1}
    enqueued = engine.rows(
        "SELECT position FROM tasker.workflow_step_transitions WHERE task_uuid = %s AND to_state = 'enqueued'"
        " ORDER BY position",
        task,
    )
    assert enqueued == [(0,), (9,), (18,)]


def test_a_quarter_of_each_batch_is_left_to_the_queue(engine: Engine) -> None:
    order: list[tuple[str, str]] = []

    def handler(ctx: Any) -> Any:
        order.append((ctx.task_name, ctx.step_name))

    engine.workflow(*chain(*[handler] * 8), name="chain")
    engine.workflow({"name": "only", "handler": handler}, name="single")
    _known(engine)
    engine.create(60, name="chain")
    engine.create(60, name="single")
    engine.run_until_idle(batch_size=20)

    assert engine.task_states() == {"complete": 120}
    # Behind 60 chains of 8, the first single task does not wait for all of them.
    first = order.index(("single", "only"))
    assert first < 60 * 8 * 0.75


class _Counting(psycopg.Cursor[Any]):
    statements = 0

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        _Counting.statements += 1
        return super().execute(*args, **kwargs)


# In batches of fifty it is 0.046 on a quiet machine; where steps take long, less fits into the time of a batch.
@pytest.mark.parametrize(("batch", "tasks", "statements", "commits"), [(1, 20, 1.35, 1.35), (50, 200, 0.1, 0.1)])
def test_statements_and_commits_per_step_of_a_chain_of_four(
    engine: Engine, monkeypatch: Any, batch: int, tasks: int, statements: float, commits: float
) -> None:
    engine.workflow(*chain(*[lambda ctx: {}] * 4))
    _known(engine)
    engine.create(tasks)
    connect = Database.connect

    def counted(self: Database, **options: Any) -> psycopg.Connection[Any]:
        connection = connect(self, **options)
        if "step_executor" in options.get("application_name", ""):
            connection.cursor_factory = _Counting
        return connection

    monkeypatch.setattr(Database, "connect", counted)
    _Counting.statements = 0
    executor = engine.executor(sizes={"batch_size": batch})
    loop = engine.loop(executor, heartbeat_seconds=10)
    loop.drain_all()
    before = _commits(engine)
    loop.run_until_idle()
    after = _commits(engine)
    loop.close()

    steps = 4 * tasks
    assert engine.task_states() == {"complete": tasks}
    print(
        f"chain of 4, batch {batch}: {_Counting.statements / steps:.3f} statements/step,"
        f" {(after - before) / steps:.3f} commits/step"
    )
    assert _Counting.statements / steps <= statements
    assert (after - before) / steps <= commits


def _commits(engine: Engine) -> int:
    """How many transactions that wrote something there have been on this server."""
    count: int = engine.value("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    return count
