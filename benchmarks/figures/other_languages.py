"""How fast Tasker takes results that come as messages, which is how a worker in any language may report them.

The worker is `benchmarks.figures.sql_worker`: it knows the SQL contract alone, claims a thousand steps at once and
sends their results in as large batches to ``orchestration_step_results``. Two figures:

* *taken*: all results of the first steps of chains wait in the queue, and one process with Tasker's executor of results
  records them, which makes the next steps ready. How fast Tasker is, then, whoever sent them.
* *end to end*: the worker claims and sends while that process records, until all chains have ended.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import deque
from collections.abc import Sequence

import psycopg

from benchmarks.engines.base import Place
from benchmarks.engines.processes import Workers
from benchmarks.engines.tasker_setup import QUEUE, count_executors, start_plain_executor
from benchmarks.figures.found import Found
from benchmarks.figures.sizes import Sizes
from benchmarks.figures.sql_worker import SqlWorker, Step
from benchmarks.inside import CHAIN, create, database, executor_here
from benchmarks.servers import Servers
from benchmarks.shapes import WrongResult
from tasker import Tasker
from tasker.executors.executor import ExecutorKind

BATCH = 100  # as shipped: executor_pools.step_result_processor.batch_size
KINDS = (ExecutorKind.STEP_RESULT_PROCESSOR,)
LONGEST_SECONDS = 600.0
REST_SECONDS = 0.002
COMPLETE = """
    SELECT count(*) FROM tasker.workflow_steps WHERE state = 'complete' AND results->>'value' = '7' AND attempts = 1
"""


def measure(found: Servers, sizes: Sizes) -> Found:
    """Results per second, by round."""
    figures: dict[str, list[float]] = {"other_languages_per_second": [], "other_languages_end_to_end": []}
    for _ in range(sizes.rounds):
        figures["other_languages_per_second"].append(_taken(found, sizes.messages))
        figures["other_languages_end_to_end"].append(_end_to_end(found, sizes.messages))
    return Found(figures, size=sizes.messages)


def _taken(found: Servers, results: int) -> float:
    warm = max(1, results // 10)
    with database(found.postgresql) as url, Tasker(url) as client, SqlWorker(url, [QUEUE]) as worker:
        create(client, CHAIN, warm + results)
        steps = [step for claimed in iter(worker.claim, []) for step in claimed]
        with executor_here(url, BATCH, KINDS) as loop:
            _send(worker, steps[:warm])
            loop.run_until_idle(LONGEST_SECONDS)
            _send(worker, steps[warm:])
            begun = time.perf_counter()
            loop.run_until_idle(LONGEST_SECONDS)
            seconds = time.perf_counter() - begun
        worker.settled(steps)
        _check(url, warm + results)
    return results / seconds


def _end_to_end(found: Servers, results: int) -> float:
    tasks = max(1, results // CHAIN.steps)
    sent: deque[list[Step]] = deque()
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(database(found.postgresql))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tasker-bench-"))
        client = stack.enter_context(Tasker(url))
        worker = stack.enter_context(SqlWorker(url, [QUEUE]))
        create(client, CHAIN, tasks)
        recorders = Workers(Place("", "", "", folder))
        stack.callback(recorders.stop)
        start_plain_executor(recorders, "orchestration", "orchestration", url)
        recorders.until(lambda: count_executors(url) == 2, "the executors of orchestration")
        left, begun = tasks * CHAIN.steps, time.perf_counter()
        while left or sent:
            steps = worker.claim()
            _send(worker, steps)
            left -= len(steps)
            if steps:
                sent.append(steps)
            # A receipt is kept until the results are recorded: till then it is what the steps are held by.
            while sent and worker.are_recorded(sent[0]):
                worker.settled(sent.popleft())
            if not steps:
                time.sleep(REST_SECONDS)
            if time.perf_counter() - begun > LONGEST_SECONDS:
                raise TimeoutError(f"{left} steps were not ready within {LONGEST_SECONDS:g} s")
        seconds = time.perf_counter() - begun
        _check(url, tasks * CHAIN.steps)
    return tasks * CHAIN.steps / seconds


def _send(worker: SqlWorker, steps: Sequence[Step]) -> None:
    for first in range(0, len(steps), 1000):
        worker.send([{**step, "status": "complete", "results": {"value": 7}} for step in steps[first : first + 1000]])


def _check(url: str, steps: int) -> None:
    with psycopg.connect(url) as connection:
        row = connection.execute(COMPLETE).fetchone()
    if row != (steps,):
        raise WrongResult(f"of {steps} steps {row} are complete")
