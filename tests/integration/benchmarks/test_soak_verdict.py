"""A soak's verdict: what became of all tasks, those that were pruned included."""

from __future__ import annotations

import psycopg
import pytest

from benchmarks.engines.tasker_setup import register
from benchmarks.inside import CHAIN, create, executor_here
from benchmarks.soak.verdict import judge
from tasker import Tasker
from tasker.database import retention


@pytest.fixture
def finished(tasker_database_url: str) -> str:
    """A database in which three tasks have finished."""
    register(tasker_database_url, CHAIN)
    with executor_here(tasker_database_url, 50) as loop, Tasker(tasker_database_url) as client:
        create(client, CHAIN, 3)
        loop.run_until_idle(60)
    return tasker_database_url


def test_tasks_that_were_pruned_once_they_had_ended_are_not_lost(finished: str) -> None:
    with psycopg.connect(finished, autocommit=True) as connection:
        keep = retention.Retention(finished_task_days=1e-9, audit_days=None, archive_seconds=None)
        assert retention.prune(connection, keep).tasks == 3
    verdict = judge(finished, {"complete": 3}, {})
    assert verdict.violations == []
    assert (verdict.tally["created"], verdict.tally["pruned"], verdict.tally["finished"]) == (3, 3, 0)
    assert verdict.verify["is_legal"]


def test_tasks_that_are_missing_open_or_gone_before_their_end_are_violations(finished: str) -> None:
    with Tasker(finished) as client:
        create(client, CHAIN, 2)  # and nobody runs them
        with psycopg.connect(finished, autocommit=True) as connection:
            gone = client.list(states=["in_progress"], limit=1).tasks[0].task_uuid
            for table in ("workflow_steps", "task_contexts", "tasks"):
                connection.execute(f"DELETE FROM tasker.{table} WHERE task_uuid = %s".encode(), [gone])
    verdict = judge(finished, {"complete": 6}, {})
    assert "6 tasks were created, the history has 5" in verdict.violations
    assert "created 5, but finished 3 and pruned 1" in verdict.violations
    assert "1 tasks are not final" in verdict.violations
    assert "1 tasks are gone that had not ended" in verdict.violations
    assert "6 tasks had to end as complete, 3 did" in verdict.violations
    assert any(violation.startswith("tasker db verify ended with 1") for violation in verdict.violations)


def test_a_call_that_raised_is_a_violation_and_may_have_created_its_task_all_the_same(finished: str) -> None:
    assert judge(finished, {"complete": 2}, {"Backpressure: full": 1}).violations == [
        "creating was refused: {'Backpressure: full': 1}"
    ]
