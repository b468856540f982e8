"""DBOS: durable workflows in PostgreSQL; ``python -m benchmarks.engines.dbos <place.json>``.

A task of a shape is a workflow, taken from a queue by one of the worker processes; each step of it is a ``@DBOS.step``.
The workflow calls its steps in topological order. Its documents' way to run steps at the same time
(`asyncio.gather` in an asynchronous workflow, *Workflows & Steps*) was tried: handlers as short as these gain nothing,
while it takes a fifth more CPU.

Chosen as its documents and the docstrings of version 3.4 say:

* *Queues*: ``polling_interval_sec`` is 1.0 as shipped; here 0.01. A worker learns of new work in no other way, so this
  is most of the latency. ``worker_concurrency`` 20 for each process, so that none takes all there is; more makes no
  difference. ``executor_id`` is set for each, "a unique value for each process".
* *Configuration*: ``use_listen_notify`` is on, as shipped (messages and events; not queues).
* *DBOS Client*: the client outside enqueues many in transactions of its own (``enqueue_in_transaction``), a hundred
  each, since every ``enqueue`` would else be a commit; and waits by ``get_result``, which polls, here every 5 ms
  (``polling_interval_sec``, 1.0 as shipped).
* The version of the application is set, so that it is not computed from the source; logs are limited to warnings.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

import sqlalchemy
from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions, WorkflowHandle

from benchmarks.engines.base import Engine, Place, serve
from benchmarks.engines.processes import READY, Workers, deadline, runs_here
from benchmarks.shapes import SHAPES, Shape

QUEUE = "bench"
WORKFLOW = "graph"
OPTIONS: EnqueueOptions = {"queue_name": QUEUE, "workflow_name": WORKFLOW}
ENQUEUES = 100
"""Workflows that are enqueued in one transaction."""


class DBOSEngine(Engine):
    """Worker processes that take workflows from a queue, and a client outside of them."""

    name = "dbos"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._workers = Workers(place)
        # The client's own engine: enqueuing in a transaction of one's own needs one on the same database.
        self._engine = sqlalchemy.create_engine(place.database_url.replace("postgresql://", "postgresql+psycopg://"))

    def start(self) -> None:
        """Start the workers, the first alone: it makes the schema and the queue."""
        for number in range(self.place.workers):
            self._workers.start_python(
                f"worker-{number}", __spec__.name, "worker", self.place.database_url, str(number)
            )
            self._workers.all_ready("DBOS's workers")
        self._client = DBOSClient(system_database_url=self.place.database_url, system_database_engine=self._engine)
        (ready,) = self.submit(SHAPES["plain"], [0])
        self._workers.until(lambda: ready.get_status().status == "SUCCESS", "DBOS's first workflow")

    def stop(self) -> None:
        """End the workers."""
        self._workers.stop()
        if hasattr(self, "_client"):
            self._client.destroy()
        self._engine.dispose()

    def submit(self, shape: Shape, numbers: Sequence[int]) -> Sequence[WorkflowHandle[Any]]:
        """By ``enqueue``, or many in a transaction."""
        if len(numbers) == 1:
            return [self._client.enqueue(OPTIONS, shape.name, numbers[0])]
        handles: list[WorkflowHandle[Any]] = []
        for first in range(0, len(numbers), ENQUEUES):
            with self._engine.begin() as connection:
                handles += (
                    self._client.enqueue_in_transaction(connection, OPTIONS, shape.name, n)
                    for n in numbers[first : first + ENQUEUES]
                )
        return handles

    def wait(self, handles: Sequence[WorkflowHandle[Any]], timeout: float) -> Sequence[int]:
        """By ``get_result``, one after the other."""
        with deadline(timeout):
            return [handle.get_result(polling_interval_sec=0.005)["value"] for handle in handles]

    def pids(self) -> Sequence[int]:
        """The workers."""
        return self._workers.pids


def worker(database_url: str, number: str) -> None:
    """A worker process."""
    runs = runs_here()

    @DBOS.step(name="step")
    def step(shape_name: str, name: str, n: int, parents: list[dict[str, int]]) -> dict[str, int]:
        shape = SHAPES[shape_name]
        value = shape.value(name, n, (parent["value"] for parent in parents))
        runs.add(n, shape.positions[name])
        return {"value": value}

    @DBOS.workflow(name=WORKFLOW)
    def graph(shape_name: str, n: int) -> dict[str, int]:
        shape = SHAPES[shape_name]
        results: dict[str, dict[str, int]] = {}
        for name, parents in shape.parents.items():
            results[name] = step(shape_name, name, n, [results[parent] for parent in parents])
        return results[shape.last]

    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": database_url,
        "executor_id": f"worker-{number}",
        "application_version": "1",
        "log_level": "WARNING",
    }
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    DBOS(config=config)
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=20, polling_interval_sec=0.01)
    print(READY.decode(), flush=True)
    ended.wait()
    DBOS.destroy()


if __name__ == "__main__":
    worker(*sys.argv[2:]) if sys.argv[1] == "worker" else serve(DBOSEngine)
