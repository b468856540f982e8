"""Pruning beside everybody who may want a task that is over: its twin, its operator, its late executor."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest

from tests.races.conftest import is_blocked
from tests.sql_kit import Core
from tests.waiting import wait_until

STEP = {"a": []}


def over(core: Core, **request: Any) -> str:
    core.register("order", STEP, step={"max_attempts": 1})
    (task,) = core.create("order", **request)
    worker = core.executor()
    worker.fail(worker.claim())
    return task


def prune(core: Core) -> int:
    return int(core.call("prune_tasks", {"keep_seconds": 0})["tasks"])


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_a_twin_of_a_task_that_is_being_pruned_is_a_new_task_with_its_identity(
    core: Core, second: Core, isolation: str
) -> None:
    task = over(core, identity_key="7")
    core.connection.execute("BEGIN")
    assert prune(core) == 1
    second.connection.execute(f"BEGIN ISOLATION LEVEL {isolation}".encode())
    with ThreadPoolExecutor(1) as pool:
        creating = pool.submit(second.create_many, [{"namespace": "shop", "name": "order", "identity_key": "7"}])
        wait_until(lambda: is_blocked_by(core, second), "the twin to wait")
        core.connection.execute("COMMIT")
        (twin,) = creating.result(timeout=30)
    second.connection.execute("COMMIT")
    assert twin["is_new"]
    assert twin["task_uuid"] != task
    assert core.rows("SELECT task_uuid::text FROM tasker.task_identities") == [(twin["task_uuid"],)]


def is_blocked_by(core: Core, other: Core) -> bool:
    """As ``is_blocked``, asked on a session of its own: that of ``core`` is in a transaction."""
    with psycopg.connect(core.url, autocommit=True) as connection:
        query = "SELECT cardinality(pg_blocking_pids(%s)) > 0"
        return connection.execute(query, (other.connection.info.backend_pid,)).fetchone() == (True,)


def test_a_retry_that_came_first_keeps_the_task(core: Core, second: Core) -> None:
    task = over(core)
    second.connection.execute("BEGIN")
    second.call("retry_task", {"task_uuid": task})
    assert prune(core) == 0
    second.connection.execute("COMMIT")
    assert prune(core) == 0
    core.executor().run_all()
    assert core.task(task)["state"] == "complete"


def test_a_retry_that_came_too_late_says_that_the_task_is_gone(core: Core, second: Core) -> None:
    task = over(core)
    core.connection.execute("BEGIN")
    assert prune(core) == 1
    with ThreadPoolExecutor(1) as pool:
        retrying = pool.submit(second.call, "retry_task", {"task_uuid": task})
        wait_until(lambda: is_blocked_by(core, second), "the retry to wait")
        core.connection.execute("COMMIT")
        with pytest.raises(psycopg.Error, match="there is no task"):
            retrying.result(timeout=30)


def test_two_who_prune_at_once_share_the_work(core: Core, second: Core) -> None:
    over(core)
    core.create("order", 10)
    core.executor().run_all()
    core.connection.execute("BEGIN")
    assert core.call("prune_tasks", {"keep_seconds": 0, "limit": 4})["tasks"] == 4
    assert second.call("prune_tasks", {"keep_seconds": 0})["tasks"] == 7
    assert not is_blocked(second, core)
    core.connection.execute("COMMIT")
    assert core.one("SELECT count(*) FROM tasker.tasks") == 0


def test_while_tasks_are_made_run_retried_and_cancelled_nothing_is_lost_and_nobody_deadlocks(core: Core) -> None:
    core.register("order", {"a": [], "b": ["a"]}, step={"max_attempts": 1})
    rounds, keys = 40, 4
    busy = threading.Event()
    answers: list[dict[str, Any]] = []

    def make(number: int) -> None:
        with closing(Core(core.url)) as driver:
            for turn in range(rounds):
                wanted = [f"k{(turn + number + key) % keys}" for key in range(2)]
                requests = [{"namespace": "shop", "name": "order", "identity_key": key} for key in wanted]
                answers.extend(driver.create_many(requests))

    def work() -> None:
        with closing(Core(core.url)) as driver:
            worker = driver.executor()
            while not busy.is_set():
                if steps := worker.claim(10):
                    failing = steps[: len(steps) // 3]
                    worker.fail(failing)
                    worker.complete(steps[len(failing) :])

    def meddle() -> None:
        with closing(Core(core.url)) as driver:
            while not busy.is_set():
                for (task,) in driver.rows("SELECT task_uuid::text FROM tasker.tasks WHERE state = 'error' LIMIT 2"):
                    try:
                        driver.call("retry_task", {"task_uuid": task, "by": "ann"})
                    except psycopg.Error as error:
                        if not (error.sqlstate or "").startswith("TK"):
                            raise
                rows = driver.rows("SELECT task_uuid::text FROM tasker.tasks ORDER BY task_uuid DESC LIMIT 1")
                driver.call("cancel_tasks", {"task_uuids": [task for (task,) in rows], "by": "ann"})

    def sweep() -> int:
        went = 0
        with closing(Core(core.url)) as driver:
            while not busy.is_set():
                went += prune(driver)
        return went

    with ThreadPoolExecutor(6) as pool:
        others = [pool.submit(work), pool.submit(meddle)]
        pruners = [pool.submit(sweep) for _ in range(2)]
        makers = [pool.submit(make, number) for number in range(2)]
        for maker in makers:
            maker.result(timeout=120)
        busy.set()
        for other in others:
            other.result(timeout=60)
        went = sum(pruner.result(timeout=60) for pruner in pruners)
    assert all(answer["state"] is not None for answer in answers)
    made = {answer["task_uuid"] for answer in answers if answer["is_new"]}
    assert {answer["task_uuid"] for answer in answers} == made
    assert went + core.one("SELECT count(*) FROM tasker.tasks") == len(made)
    assert (
        core.one(
            "SELECT count(*) FROM tasker.tasks AS t WHERE NOT EXISTS ("
            "SELECT FROM tasker.task_identities AS i WHERE i.task_uuid = t.task_uuid)"
        )
        == 0
    )
