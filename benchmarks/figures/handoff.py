"""How long it takes from the commit of a parent until the handler of its child is entered, on an idle system.

Two chains of four, each task alone: one whose steps all belong to one namespace, so that its executor goes on with the
child by itself; and one whose steps belong to two in turn, served by a process each, so that each handoff is one to
another process.

The commit's time is PostgreSQL's own (``track_commit_timestamp``), from just before the commit is written to disk: the
write is part of what is measured. The handler says when it was entered. Both read the same clock, so the server has to
run on this machine.
"""

from __future__ import annotations

import tempfile
import time

import psycopg

from benchmarks.engines.base import Place
from benchmarks.engines.processes import Workers
from benchmarks.engines.tasker_setup import (
    LEARNED_SECONDS,
    NAMESPACE,
    QUEUE,
    count_executors,
    register,
    request,
    start_plain_executor,
)
from benchmarks.figures.found import Found
from benchmarks.figures.sizes import Sizes
from benchmarks.inside import CHAIN
from benchmarks.reading import percentile
from benchmarks.servers import Servers
from benchmarks.shapes import Shape, WrongResult
from tasker import Tasker
from tasker.database.migrations import migrate

OTHER = "bench_other"
PAUSE_SECONDS = 0.03
WARM_TASKS = 50
CHAINS = {
    "same": (Shape("same_executor", CHAIN.parents), [NAMESPACE]),
    "other": (Shape("other_process", CHAIN.parents), [NAMESPACE, OTHER]),
}
HANDOFFS = """
    SELECT CAST(c.results->>'entered' AS float8) - extract(epoch FROM pg_xact_commit_timestamp(p.xmin)),
           CAST(c.results->>'entered' AS float8) - CAST(p.results->>'left' AS float8),
           c.executor = p.executor
    FROM tasker.workflow_steps AS c
    JOIN tasker.workflow_steps AS p ON p.task_uuid = c.task_uuid AND p.position = c.position - 1
    WHERE c.task_uuid = ANY (%s)
"""


def measure(found: Servers, sizes: Sizes) -> Found:
    """Milliseconds, p50 and p99 of each round: from the commit, and from the return of the parent's handler."""
    url = found.postgresql.create()
    figures: dict[str, list[float]] = {}
    try:
        migrate(url)
        for shape, namespaces in CHAINS.values():
            register(url, shape, namespaces, "times")
        with tempfile.TemporaryDirectory(prefix="tasker-bench-") as folder, Tasker(url) as client:
            workers = Workers(Place("", "", "", folder))
            try:
                start_plain_executor(workers, "first", "steps", url, QUEUE)
                start_plain_executor(workers, "second", "steps", url, f"{OTHER}_queue")
                workers.until(lambda: count_executors(url) == 2, "two executors")
                for kind in CHAINS:
                    _handoffs(client, url, kind, min(WARM_TASKS, sizes.handoffs))
                time.sleep(LEARNED_SECONDS)
                for number in range(sizes.rounds):
                    for kind in sorted(CHAINS, reverse=bool(number % 2)):
                        committed, whole = _handoffs(client, url, kind, sizes.handoffs)
                        for name, seconds in ((kind, committed), (f"{kind}_whole", whole)):
                            for percent, suffix in ((50, "ms"), (99, "p99_ms")):
                                value = percentile(seconds, percent) * 1000
                                figures.setdefault(f"handoff_{name}_{suffix}", []).append(value)
            finally:
                workers.stop()
    finally:
        found.postgresql.drop(url)
    return Found(figures, size=sizes.handoffs * (CHAIN.steps - 1))


def _handoffs(client: Tasker, url: str, kind: str, tasks: int) -> tuple[list[float], list[float]]:
    """Seconds from the commit, and from the end of the parent's handler, of all handoffs of these tasks."""
    shape, _ = CHAINS[kind]
    handles = []
    for n in range(tasks):
        asked = request(shape, n)
        handles.append(client.create(asked["namespace"], asked["name"], asked["context"]))
        client.wait(handles[-1], 60)
        time.sleep(PAUSE_SECONDS)
    with psycopg.connect(url) as connection:
        rows = connection.execute(HANDOFFS, [[handle.task_uuid for handle in handles]]).fetchall()
    if len(rows) != tasks * (shape.steps - 1) or any(same != (kind == "same") for _, _, same in rows):
        raise WrongResult(f"handoffs to the {kind} executor: not every step ran where it should")
    return [float(row[0]) for row in rows], [float(row[1]) for row in rows]
