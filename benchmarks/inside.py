"""Tasker from within: what one executor costs by batch size, what an idle one asks, how fast tasks are submitted."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.engines.base import Place
from benchmarks.engines.processes import Workers
from benchmarks.engines.tasker_setup import (
    QUEUE,
    count_executors,
    environment,
    request,
    set_up,
    start_celery_worker,
    start_plain_executor,
)
from benchmarks.servers import PostgreSQL, name_of
from benchmarks.shapes import SHAPES, Shape
from tasker import Tasker
from tasker.config.manager import ConfigManager
from tasker.core import OrchestrationCore
from tasker.executors.executor import ExecutorKind
from tasker.executors.loop import ExecutorLoop
from tasker.executors.stop import StopSignal

CHAIN = SHAPES["linear4"]
BATCHES = (1, 200)
SUBMITTED_AT_ONCE = 1000
COLD_TASKS = 4
LONGEST_POLL_SECONDS = 5.0


def look(postgresql: PostgreSQL, *, rounds: int, steps: int, idle_seconds: float) -> dict[str, Any]:
    """All figures of this module; rates are lists, one figure a round.

    Args:
        postgresql: the server.
        rounds: how often.
        steps: steps of a run at the larger batch.
        idle_seconds: how long an idle executor is looked at.
    """
    found: dict[str, Any] = {
        "batches": {str(batch): [] for batch in BATCHES},
        "create_many": [],
        "create": [],
        "cold": [],
    }
    for _ in range(rounds):
        for batch in BATCHES:
            found["batches"][str(batch)].append(one_executor(postgresql, batch, steps if batch > 1 else steps // 10))
        many, one = _submission(postgresql, steps // CHAIN.steps)
        found["create_many"].append(many)
        found["create"].append(one)
        found["cold"].append(_cold(postgresql))
    found["idle"] = _idle(postgresql, idle_seconds)
    return found


@contextlib.contextmanager
def database(postgresql: PostgreSQL, shape: Shape = CHAIN) -> Iterator[str]:
    """A database in which the shape is registered."""
    url = postgresql.create()
    try:
        set_up(url, shape)
        yield url
    finally:
        postgresql.drop(url)


@contextlib.contextmanager
def executor_here(
    url: str, batch: int, kinds: Sequence[ExecutorKind] = (ExecutorKind.STEP_EXECUTOR,)
) -> Iterator[ExecutorLoop]:
    """Executors in this process, one for steps unless told otherwise, which takes at most ``batch`` at once."""
    sized = environment(url, TASKER_EXECUTOR_POOLS__STEP_EXECUTOR__BATCH_SIZE=str(batch))
    stop = StopSignal()
    try:
        with OrchestrationCore.from_settings(ConfigManager.load(environ=sized), database_url=url) as core:
            with core.build_loop(kinds, [QUEUE], stop=stop, worker="bench@here") as loop:
                yield loop
    finally:
        stop.close()


def create(client: Tasker, shape: Shape, tasks: int) -> None:
    """Create tasks, a thousand at a time."""
    for first in range(0, tasks, SUBMITTED_AT_ONCE):
        client.create_many([request(shape, n) for n in range(first, min(first + SUBMITTED_AT_ONCE, tasks))])


def one_executor(postgresql: PostgreSQL, batch: int, steps: int) -> dict[str, float]:
    """Microseconds, commits and statements per step of one executor that finds all its work waiting."""
    tasks = max(1, steps // CHAIN.steps)
    with database(postgresql) as url, executor_here(url, batch) as loop, Tasker(url) as client:

        def drain(count: int) -> tuple[float, int]:
            create(client, CHAIN, count)
            commits, _ = postgresql.written()
            begun = time.perf_counter()
            loop.run_until_idle(300)
            return time.perf_counter() - begun, postgresql.written()[0] - commits

        drain(max(100, batch * 4))
        seconds, commits = drain(tasks)
        counted = max(1, tasks // 4)
        create(client, CHAIN, counted)
        with postgresql.counting_statements() as statements:
            loop.run_until_idle(300)
        _all_complete(client, tasks)
    done = tasks * CHAIN.steps
    per_step = {"microseconds": seconds / done * 1e6, "commits": commits / done}
    if statements:
        per_step["statements"] = statements.total() / (counted * CHAIN.steps)
    return per_step


def _submission(postgresql: PostgreSQL, tasks: int) -> tuple[float, float]:
    """Tasks per second: a thousand in a transaction, and one by one."""
    with database(postgresql) as url, Tasker(url) as client:
        create(client, CHAIN, 100)
        begun = time.perf_counter()
        create(client, CHAIN, tasks)
        many = tasks / (time.perf_counter() - begun)
        alone = max(50, tasks // 10)
        begun = time.perf_counter()
        for n in range(alone):
            asked = request(CHAIN, n)
            client.create(asked["namespace"], asked["name"], asked["context"])
        return many, alone / (time.perf_counter() - begun)


def _cold(postgresql: PostgreSQL) -> float:
    """Steps per second of a fan-out whose steps nobody has run before: what an executor has still to learn costs."""
    shape = SHAPES["fan100"]
    with database(postgresql, shape) as url, executor_here(url, BATCHES[-1]) as loop, Tasker(url) as client:
        create(client, shape, COLD_TASKS)
        begun = time.perf_counter()
        loop.run_until_idle(300)
        seconds = time.perf_counter() - begun
        _all_complete(client, COLD_TASKS)
    return COLD_TASKS * shape.steps / seconds


def _idle(postgresql: PostgreSQL, seconds: float) -> dict[str, float]:
    """Statements per second, once polling has slowed down.

    Of one executor in a process of its own, and of a whole Celery worker with two, Celery's own statements included.
    """
    executors = 2
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tasker-bench-"))
        bare, hosted = stack.enter_context(database(postgresql)), stack.enter_context(database(postgresql))
        workers = Workers(Place("", "", "", folder))
        stack.callback(workers.stop, 40)
        start_celery_worker(workers, hosted, executors)
        start_plain_executor(workers, "bare", "steps", bare)
        workers.until(lambda: count_executors(hosted) >= executors and count_executors(bare) == 1, "idle executors")
        time.sleep(3 * LONGEST_POLL_SECONDS)
        with postgresql.counting_statements() as counted:
            time.sleep(seconds)
    if not counted:
        return {}
    return {"executor": counted[name_of(bare)] / seconds, "worker": counted[name_of(hosted)] / seconds}


def _all_complete(client: Tasker, least: int) -> None:
    """Fails unless every task is complete, and at least so many are there."""
    open_tasks = client.list(states=["pending", "in_progress", "paused", "error", "cancelled"], limit=1)
    complete = client.list(states=["complete"], limit=min(least, 1000))
    if open_tasks.tasks or len(complete.tasks) < min(least, 1000):
        raise RuntimeError("the executor did not complete all tasks")
