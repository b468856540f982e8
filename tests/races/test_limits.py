"""Limits while steps are claimed, completed, released, cancelled: never exceeded, never leaked, nothing is stuck."""

from __future__ import annotations

import concurrent.futures
import random
import threading

import psycopg
import pytest

from tasker.database.scratch import ScratchDatabases
from tests.sql_kit import CHAIN, Core, assert_legal, lawful

WORKERS = 6
LIMIT, OWN_LIMIT = 5, 2
TENANTS = ("red", "green", "blue")


class Watch:
    """Counts, in snapshots of its own, what runs: by the states of steps, not by what limits are kept with."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.most: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._over.is_set():
                rows = connection.execute(
                    """SELECT t.concurrency_key, count(*) FROM tasker.tasks AS t
                       JOIN tasker.workflow_steps AS s ON s.task_uuid = t.task_uuid AND s.state = 'in_progress'
                       WHERE t.finished_at IS NULL GROUP BY t.concurrency_key"""
                ).fetchall()
                for key, count in [*rows, ("all", sum(count for _, count in rows))]:
                    self.most[key] = max(self.most.get(key, 0), count)


def work(url: str, seed: int, left: threading.Event) -> None:
    """Claim, and do one of the things that can happen to a step, until all is done."""
    rng = random.Random(seed)
    core = Core(url)
    worker = core.executor("shop_queue")
    try:
        while not left.is_set():
            steps = worker.claim(rng.randint(1, 4))
            if not steps:
                if not core.one("SELECT EXISTS (SELECT FROM tasker.tasks WHERE finished_at IS NULL)"):
                    left.set()
                left.wait(0.01)
                continue
            for step in steps:
                match rng.randint(0, 9):
                    case 0:
                        worker.release([step])
                    case 1:
                        worker.fail([step], retry_after_seconds=0)
                    case 2:
                        core.call("reset_step", {"task_uuid": step["task_uuid"], "position": step["position"]})
                    case 3 if rng.random() < 0.2:
                        core.call("cancel_tasks", {"task_uuids": [step["task_uuid"]]})
                    case _:
                        worker.complete([step], wait=True, continue_limit=rng.randint(0, 2))
    finally:
        core.close()


def tend(url: str, left: threading.Event) -> None:
    """The coordinator's net, more often than in life: releases and cancellations wake nobody."""
    core = Core(url)
    try:
        while not left.wait(0.2):
            core.call("tend_parked", {"limit": 100})
    finally:
        core.close()


@pytest.mark.parametrize("seed", range(2))
def test_limits_are_never_exceeded_and_every_step_gets_its_turn(tasker_server: ScratchDatabases, seed: int) -> None:
    url = tasker_server.create()
    try:
        with lawful(url) as core:
            concurrency = {"path": ["tenant"], "max_steps": OWN_LIMIT}
            core.register("order", CHAIN, step={"max_attempts": 1000}, concurrency=concurrency)
            core.call("set_namespace", {"namespace": "shop", "max_concurrency": LIMIT})
            for tenant in TENANTS:
                core.create("order", 15, context={"tenant": tenant})
            left = threading.Event()
            with Watch(url) as watch, concurrent.futures.ThreadPoolExecutor(WORKERS + 1) as pool:
                tending = pool.submit(tend, url, left)
                working = [pool.submit(work, url, seed * 100 + number, left) for number in range(WORKERS)]
                try:
                    for future in concurrent.futures.as_completed(working, timeout=100):
                        future.result()
                finally:
                    left.set()
                tending.result()
            print(f"most at once: {watch.most}")
            assert watch.most["all"] <= LIMIT
            assert all(watch.most[tenant] <= OWN_LIMIT for tenant in TENANTS)
            assert watch.most["all"] > OWN_LIMIT, "they did run at once"
            ended = core.one("SELECT count(*) FROM tasker.tasks WHERE state IN ('complete', 'cancelled')")
            assert ended == 15 * len(TENANTS)
            assert core.one("SELECT count(*) FROM tasker.step_timers") == 0
        assert_legal(url)
    finally:
        tasker_server.drop(url)
