"""Absurd: durable tasks on PostgreSQL whose steps are checkpoints.

``python -m benchmarks.engines.absurd <place.json>``

A task of a shape is a task of Absurd, each step of it a ``ctx.step`` in topological order: within a task nothing runs
at the same time, as its SDK has it. (Its documents' way to run parts at the same time is a task of their own for each,
on a second queue, awaited by the parent: a task and a run for each step instead of a checkpoint.)

Chosen as its documents and its SDK say (docs/sdks/python.md, docs/concepts.md, docs/storage.md of version 0.5):

* Workers are pull-based; there is no notification, only ``poll_interval``, 0.25 s as shipped. Here 0.01 s, which is
  what its latency is made of.
* ``concurrency`` 1 for each worker process: the synchronous worker's threads share one connection and take turns on
  it, so more of them gain nothing. ``batch_size`` 20: a claim takes so many tasks at once, which are then run in turn.
* ``unpartitioned`` queues, the recommendation for all but large histories.
* The client spawns many tasks in transactions of its own connection ("From an existing psycopg connection"), a hundred
  each, since every ``spawn`` would else be a commit. It waits by ``fetch_task_result``, every 5 ms:
  ``await_task_result`` first looks after 50 ms, then ever more rarely.

The schema is the one that ``absurdctl init`` applies.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import psycopg
from absurd_sdk import Absurd, TaskContext
from absurdctl import BUNDLED_SCHEMA_SQL

from benchmarks.engines.base import Engine, Place, serve
from benchmarks.engines.processes import READY, Workers, runs_here
from benchmarks.shapes import SHAPES, Shape

QUEUE = "bench"
TASK = "graph"
SPAWNS = 100
"""Tasks that are spawned in one transaction."""


class AbsurdEngine(Engine):
    """Worker processes of the synchronous SDK, one task at a time each."""

    name = "absurd"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._workers = Workers(place)

    def start(self) -> None:
        """Make the schema and the queue, start the workers."""
        with psycopg.connect(self.place.database_url, autocommit=True) as connection:
            connection.execute(BUNDLED_SCHEMA_SQL)
        self._connection = psycopg.connect(self.place.database_url, autocommit=True)
        self._client = Absurd(self._connection, queue_name=QUEUE)
        self._client.create_queue()
        for number in range(self.place.workers):
            self._workers.start_python(f"worker-{number}", __spec__.name, "worker", self.place.database_url)
        self._workers.all_ready("Absurd's workers")

    def stop(self) -> None:
        """End the workers."""
        self._workers.stop()
        if hasattr(self, "_connection"):
            self._connection.close()

    def submit(self, shape: Shape, numbers: Sequence[int]) -> Sequence[str]:
        """By ``spawn``, many in a transaction."""
        handles = []
        for first in range(0, len(numbers), SPAWNS):
            with self._connection.transaction():
                for n in numbers[first : first + SPAWNS]:
                    spawned = self._client.spawn(TASK, {"shape": shape.name, "n": n}, queue=QUEUE)
                    handles.append(spawned["task_id"])
        return handles

    def wait(self, handles: Sequence[str], timeout: float) -> Sequence[int]:
        """By polling one task after the other."""
        deadline = time.monotonic() + timeout
        values = []
        for handle in handles:
            while (found := self._client.fetch_task_result(handle)) is None or found.state != "completed":
                if found is not None and found.state in ("failed", "cancelled"):
                    raise RuntimeError(f"task {handle} is {found.state}: {found.failure}")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"task {handle} is not final after {timeout:.0f} s")
                time.sleep(0.005)
            result: Any = found.result
            values.append(result["value"])
        return values

    def pids(self) -> Sequence[int]:
        """The workers."""
        return self._workers.pids


def worker(database_url: str) -> None:
    """A worker process."""
    app = Absurd(database_url, queue_name=QUEUE)
    runs = runs_here()

    @app.register_task(TASK)
    def graph(params: Any, context: TaskContext) -> dict[str, int]:
        shape, n = SHAPES[params["shape"]], params["n"]
        results: dict[str, dict[str, int]] = {}

        def handle(name: str) -> dict[str, int]:
            value = shape.value(name, n, (results[parent]["value"] for parent in shape.parents[name]))
            runs.add(n, shape.positions[name])
            return {"value": value}

        for name in shape.parents:
            results[name] = context.step(name, lambda name=name: handle(name))
        return results[shape.last]

    signal.signal(signal.SIGTERM, lambda *_: app.stop_worker())
    print(READY.decode(), flush=True)
    app.start_worker(concurrency=1, batch_size=20, poll_interval=0.01)


if __name__ == "__main__":
    worker(sys.argv[2]) if sys.argv[1] == "worker" else serve(AbsurdEngine)
