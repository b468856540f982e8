"""What it costs to know which steps are ready after one has completed: by counters, and by looking again.

The *ruler* is how an orchestrator finds it out that keeps no counters: a SQL function that takes the latest transition
of every step of the task, counts for each step those of its parents that are complete, and returns the steps that have
not begun and lack none, and how many steps are under way. It gets what it needs to be fast: the edges as a table of
their own, a B-tree index over the transitions in its order, fresh statistics, a plan that is kept. It does less than
such functions do elsewhere: no attempts, no back-off, no words about anything.

Tasker's figure is ``advance_tasks``, which runs within each completion: it finds the dependents, counts their parents
down, decides, and writes the task's own counter. All that it writes is in the figure, while the ruler only reads.

Both are timed by the same instrument (``track_functions``), on the same rows, in the same moment: after each
completion the ruler is asked about the same tasks. In a fan (1 → width → 1) nothing becomes ready by a completion in
the middle, so that neither is charged with sending messages.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import psycopg

from benchmarks.engines.tasker_setup import QUEUE, register
from benchmarks.figures.found import Found
from benchmarks.figures.sizes import Sizes
from benchmarks.figures.sql_worker import SqlWorker, Step
from benchmarks.figures.watching import alone, settle
from benchmarks.inside import create, executor_here
from benchmarks.servers import Servers
from benchmarks.shapes import Shape, WrongResult, fan
from tasker import Tasker
from tasker.database.migrations import migrate
from tasker.executors.executor import ExecutorKind

STEPS = (10, 100, 1000)
"""Steps per task."""

WAYS = {"alone": 1, "batch": 50}
"""Completions in a call, each of another task: on an idle system, and under load."""

RULER = """
CREATE SCHEMA ruler;
CREATE TABLE ruler.edges AS
    SELECT t.task_uuid, n.position AS parent, e.child
    FROM tasker.tasks AS t
    JOIN tasker.named_steps AS n USING (named_task_id)
    CROSS JOIN unnest(n.dependents) AS e(child);
CREATE INDEX ON ruler.edges (task_uuid, child, parent);
CREATE INDEX ON tasker.workflow_step_transitions (task_uuid, position, map_index, fence DESC, at DESC)
    INCLUDE (to_state);

CREATE FUNCTION ruler.look(task_uuids uuid[]) RETURNS TABLE (task_uuid uuid, ready integer[], live bigint)
LANGUAGE plpgsql STABLE SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    WITH latest AS MATERIALIZED (
        SELECT DISTINCT ON (x.task_uuid, x.position, x.map_index) x.task_uuid, x.position, x.to_state
        FROM tasker.workflow_step_transitions AS x WHERE x.task_uuid = ANY (task_uuids)
        ORDER BY x.task_uuid, x.position, x.map_index, x.fence DESC, x.at DESC
    ), parents AS (
        SELECT e.task_uuid, e.child, count(*) AS needed,
               count(*) FILTER (WHERE l.to_state IN ('complete', 'resolved_manually', 'skipped')) AS satisfied
        FROM ruler.edges AS e
        LEFT JOIN latest AS l ON l.task_uuid = e.task_uuid AND l.position = e.parent
        WHERE e.task_uuid = ANY (task_uuids)
        GROUP BY e.task_uuid, e.child
    )
    SELECT s.task_uuid,
           array_agg(s.position) FILTER (WHERE l.task_uuid IS NULL AND coalesce(p.needed = p.satisfied, true)),
           count(*) FILTER (WHERE l.to_state IN ('enqueued', 'in_progress', 'waiting_for_retry'))
    FROM tasker.workflow_steps AS s
    LEFT JOIN latest AS l ON l.task_uuid = s.task_uuid AND l.position = s.position
    LEFT JOIN parents AS p ON p.task_uuid = s.task_uuid AND p.child = s.position
    WHERE s.task_uuid = ANY (task_uuids)
    GROUP BY s.task_uuid;
END
$$;
"""
LOOK = "SELECT task_uuid, ready, live FROM ruler.look(CAST(%s AS uuid[]))"
TIMES = "SELECT funcname, calls, total_time FROM pg_stat_user_functions WHERE funcname = ANY (%s)"
TIMED = {"advance_tasks": "counters", "complete_steps": "completion", "look": "ruler"}
WATCHED = "-c track_functions=pl"
ALL_BUT_THE_LAST = """
    INSERT INTO tasker.workflow_step_transitions (task_uuid, position, map_index, fence, from_state, to_state)
    SELECT s.task_uuid, s.position, 0, s.fence, 'in_progress', 'complete' FROM tasker.workflow_steps AS s
    WHERE s.task_uuid = %s AND s.state = 'in_progress'
"""


def measure(found: Servers, sizes: Sizes) -> Found:
    """Microseconds for each completion, and how many times as much the ruler takes, by steps of a task and at once."""
    figures: dict[str, list[float]] = {}
    for steps in STEPS:
        for name, values in _fans(found, fan(f"fan_of_{steps}", steps - 2), sizes).items():
            figures[f"dependencies_{name}_{steps}"] = values
        for way in WAYS:
            ruler, counters = (figures[f"dependencies_{what}_{way}_{steps}"] for what in ("ruler", "counters"))
            ratios = [one / other for one, other in zip(ruler, counters, strict=True)]
            figures[f"dependencies_ratio_{way}_{steps}"] = ratios
    figures["dependencies_ratio"] = figures["dependencies_ratio_batch_10"]
    return Found(figures, size=sizes.completions)


def _fans(found: Servers, shape: Shape, sizes: Sizes) -> dict[str, list[float]]:
    """Microseconds of each function for a completion, by function and way, for each round."""
    figures: dict[str, list[float]] = {}
    middle = shape.steps - 2
    tasks = max(*WAYS.values(), -(-2 * sizes.completions // (middle - 1)))
    url = found.postgresql.create()
    try:
        migrate(url)
        register(url, shape)
        with SqlWorker(url, [QUEUE]) as worker:
            steps = _claim_middles(url, shape, worker, tasks)
            with psycopg.connect(url) as connection:
                connection.execute(RULER.encode())
            settle(url)
            _check_ruler(url, shape, steps[0]["task_uuid"])
            for _ in range(sizes.rounds):
                for way, at_once in WAYS.items():
                    mine = [steps.pop() for _ in range(max(1, sizes.completions // sizes.rounds // at_once) * at_once)]
                    for name, taken in _round(url, worker, mine, at_once).items():
                        figures.setdefault(f"{name}_{way}", []).append(taken)
    finally:
        found.postgresql.drop(url)
    return figures


def _claim_middles(url: str, shape: Shape, worker: SqlWorker, tasks: int) -> list[Step]:
    """Tasks of which the middle runs: its steps, neighbours of different tasks, without the last one of each task."""
    with Tasker(url) as client:
        create(client, shape, tasks)
    for step in list(iter(worker.claim, [])):
        worker.complete([{**one, "status": "complete", "results": {"value": 1}} for one in step])
    with executor_here(url, 50, [ExecutorKind.STEP_ENQUEUER]) as loop:
        loop.run_until_idle(300)
    steps = list(itertools.chain.from_iterable(iter(worker.claim, [])))
    if len(steps) != tasks * (shape.steps - 2):
        raise WrongResult(f"{shape.name}: {len(steps)} steps run")
    steps.sort(key=lambda step: (step["position"], step["task_uuid"]))
    return steps[tasks:]


def _round(url: str, worker: SqlWorker, steps: list[Step], at_once: int) -> dict[str, float]:
    worker.disconnect()
    before = _times(url)
    worker.reconnect(WATCHED)
    with psycopg.connect(url, autocommit=True, options=WATCHED) as ruler:
        for batch in batches(steps, at_once):
            worker.complete([{**step, "status": "complete", "results": {"value": 1}} for step in batch])
            seen = ruler.execute(LOOK, [[step["task_uuid"] for step in batch]]).fetchall()
            if len(seen) != at_once or any(ready is not None or not live for _, ready, live in seen):
                raise WrongResult("the ruler says that a step is ready or a task at its end, and neither is so")
    worker.disconnect()
    after = _times(url)
    return {TIMED[name]: (after[name] - before.get(name, 0.0)) * 1000 / len(steps) for name in TIMED}


def _times(url: str) -> dict[str, float]:
    """Milliseconds in each function so far, with all that they call."""
    with psycopg.connect(url, autocommit=True) as connection:
        alone(connection)
        return {name: total for name, _, total in connection.execute(TIMES, [[*TIMED]])}


def _check_ruler(url: str, shape: Shape, task_uuid: str) -> None:
    """Were the whole middle of a task complete, the ruler would say that its last step is ready."""
    with psycopg.connect(url) as connection:
        connection.execute(ALL_BUT_THE_LAST, [task_uuid])
        seen = connection.execute(LOOK, [[task_uuid]]).fetchall()
        connection.rollback()
    if [(str(task), ready, live) for task, ready, live in seen] != [(task_uuid, [shape.steps - 1], 0)]:
        raise WrongResult(f"{shape.name}: the ruler sees {seen}")


def batches(steps: Sequence[Step], size: int) -> Iterator[Sequence[Step]]:
    """The steps, so many at a time."""
    for first in range(0, len(steps), size):
        yield steps[first : first + size]
