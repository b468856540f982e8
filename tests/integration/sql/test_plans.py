"""The plans of the hot path are pinned: what a call reads depends on its batch, never on the size of the tables.

Sessions keep their plans, so the worst case is one that planned on empty tables and lives on while they grow. Each test
runs the whole path in one session on empty tables, fills them from another, and compares what the same calls read, by
PostgreSQL's own counters, before and after ANALYZE.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tasker.database.verification import RULES
from tests.sql_kit import DIAMOND, Core, Worker, sweep

FILL = """
WITH made AS MATERIALIZED (
    SELECT g AS n, tasker.uuid7() AS task_uuid FROM generate_series(1, {tasks}) AS g
), t AS (
    INSERT INTO tasker.tasks (task_uuid, named_task_id, state, total, active, open, failed, skipped, created_at,
                              admitted_at, finished_at, finalized_at)
    SELECT task_uuid, 1, 'complete', 4, 0, 0, 0, 0, now(), now(), now(), now() FROM made
), c AS (
    INSERT INTO tasker.task_contexts SELECT task_uuid, '{{"n": 1}}' FROM made
)
INSERT INTO tasker.workflow_steps (task_uuid, position, step_uuid, state, unmet, fence, attempts, executor, finished_at,
                                   results)
SELECT m.task_uuid, p, tasker.step_uuid(m.task_uuid, p, 0), 'complete', 0, 1, 1, tasker.uuid7(), now(),
       '{{"ok": true}}'
FROM made AS m CROSS JOIN generate_series(0, 3) AS p
"""

COUNTED = """
SELECT relname, coalesce(seq_tup_read, 0), coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables
WHERE schemaname IN ('tasker', 'pgmq') AND relname !~ 'transitions'
"""


def read_by(core: Core, what: Any) -> tuple[dict[str, int], Any]:
    """Run ``what`` in one transaction; the rows it read, by table, and its answer."""
    with core.connection.transaction():
        before = {name: (seq, idx) for name, seq, idx in core.rows(COUNTED)}
        answer = what()
        after = {name: (seq, idx) for name, seq, idx in core.rows(COUNTED)}
    return {
        name: sum(after[name]) - sum(before.get(name, (0, 0)))
        for name in after
        if sum(after[name]) != sum(before.get(name, (0, 0)))
    }, answer


def hot_path(core: Core, worker: Worker) -> Iterator[tuple[str, dict[str, int]]]:
    """Every call of the hot path once, at batch 20, on fresh tasks; yields what each read."""
    read, _ = read_by(core, lambda: core.create("order", 20, identity_key=None))
    yield "create", read
    read, steps = read_by(core, lambda: worker.claim(20))
    assert len(steps) == 20
    yield "claim", read
    read, answer = read_by(core, lambda: worker.complete(steps[:18], continue_limit=10))
    continued = answer["steps"]
    assert len(continued) == 10
    yield "complete and continue", read
    read, _ = read_by(core, lambda: worker.fail(steps[18:]))
    yield "fail", read
    read, _ = read_by(core, lambda: worker.release(continued))
    yield "release", read
    read, _ = read_by(core, worker.heartbeat)
    yield "heartbeat", read
    read, _ = read_by(core, lambda: sweep(core))
    yield "sweep", read
    read, _ = read_by(core, lambda: core.call("process_step_results", {}))
    yield "results and deadlines", read
    read, _ = read_by(core, lambda: core.call("claim_ready_tasks", {"processor": "p", "limit": 20}))
    yield "admission", read
    assert worker.run_all(20, continue_limit=20) == 62
    read, _ = read_by(core, worker.claim)
    yield "idle claim", read
    yield from kept_back(core, worker)
    yield from ticks(core, worker)


def kept_back(core: Core, worker: Worker) -> Iterator[tuple[str, dict[str, int]]]:
    """What is done while tasks wait to be admitted, and steps for a limit."""
    core.rows_affected("UPDATE tasker.namespaces SET admission = 'soft', admission_room = 15 WHERE name = 'shop'")
    tasks = core.create("order", 20, identity_key=None)
    read, answer = read_by(core, lambda: core.call("claim_ready_tasks", {"processor": "p", "limit": 20}))
    assert len(answer["tasks"]) == 15
    yield "admission while closed", read
    limits = {"soft_queue_depth": 1000, "hard_queue_depth": 5000, "max_concurrent_tasks": 1000, "every_seconds": 0}
    read, answer = read_by(core, lambda: core.call("measure_admission", limits))
    assert answer["measured"]
    yield "measure", read
    core.rows_affected("UPDATE tasker.namespaces SET admission = 'open' WHERE name = 'shop'")
    core.call("claim_ready_tasks", {"processor": "p", "limit": 20})
    core.call("enqueue_ready_steps", {"processor": "p", "task_uuids": tasks})
    core.call("set_namespace", {"namespace": "shop", "max_concurrency": 5})
    read, steps = read_by(core, lambda: worker.claim(20))
    assert len(steps) == 5
    yield "claim under a limit", read
    worker.complete(steps)
    core.call("set_namespace", {"namespace": "shop", "max_concurrency": None})
    read, _ = read_by(core, lambda: core.call("tend_parked", {}))
    yield "parked steps", read
    assert worker.run_all(20) == 75


def ticks(core: Core, worker: Worker) -> Iterator[tuple[str, dict[str, int]]]:
    """What ticks do now and then, on twenty tasks each."""
    core.create("stuck", 20, identity_key=None)
    worker.claim(20)
    core.move_clock(120)
    read, answer = read_by(core, lambda: core.call("act_on_stuck_tasks", {"limit": 20}))
    core.move_clock(0)
    assert answer["given_up"] == 20
    yield "stuck tasks", read
    for function in ("judge_executors", "pool_measures"):
        read, _ = read_by(core, lambda function=function: core.call(function, {}))  # type: ignore[misc]
        yield function, read
    read, answer = read_by(core, lambda: core.call("prune_tasks", {"keep_seconds": 0, "limit": 20}))
    assert answer["tasks"] == 20
    yield "prune", read


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "tasks", [20_000, pytest.param(1_000_000, marks=pytest.mark.long)], ids=["20000_tasks", "1000000_tasks"]
)
def test_what_the_hot_path_reads_does_not_grow_with_the_tables(core: Core, tasks: int) -> None:
    core.excuse(*RULES)  # the tables are filled with tasks that have no history
    core.register("order", DIAMOND, step={"backoff": "none"})
    core.register("stuck", {"a": []}, lifecycle={"max_duration_minutes": 1})
    worker = core.executor()
    for _ in range(2):
        on_empty = dict(hot_path(core, worker))
    filler = Core(core.url)
    core.rows_affected("VACUUM tasker.tasks")  # the planner now knows that the table is as good as empty
    core.rows_affected("VACUUM tasker.workflow_steps")
    planned_on_empty = dict(hot_path(core, worker))
    for _ in range(max(tasks // 100_000, 1)):
        filler.rows_affected(FILL.format(tasks=min(tasks, 100_000)))
    on_full = dict(hot_path(core, worker))
    filler.rows_affected("ANALYZE")
    analyzed = dict(hot_path(core, worker))
    fresh = Core(core.url)
    fresh_plans = dict(hot_path(fresh, fresh.executor()))
    filler.close()
    fresh.close()
    for call, read in on_empty.items():
        allowed = {table: 3 * rows + 50 for table, rows in read.items()}
        for when, other in (
            ("planned on empty tables", planned_on_empty),
            ("full, not analyzed", on_full),
            ("full, analyzed", analyzed),
            ("full, planned anew", fresh_plans),
        ):
            grown = {t: n for t, n in other[call].items() if n > allowed.get(t, 50)}
            assert grown == {}, f"{call}, {when}: read {grown}, was {read}"


@pytest.mark.parametrize("others", [0, 5000])
def test_an_idle_claim_reads_next_to_nothing(core: Core, others: int) -> None:
    core.register("order", {"a": []}, step={"backoff": "fixed", "backoff_base_ms": 600_000})
    worker = core.executor()
    if others:
        core.create("order", others)
        while steps := worker.claim(1000):
            worker.fail(steps)
    read, steps = read_by(core, worker.claim)
    assert steps == []
    assert sum(read.values()) <= 20, read
