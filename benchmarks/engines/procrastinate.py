"""Procrastinate, a job queue on PostgreSQL.

``python -m benchmarks.engines.procrastinate <place.json> bulk|single``

It has no graphs, so that it runs the shape ``plain`` alone, submitted in bulk (``batch_defer``) or one by one
(``defer``). It keeps no return values either: a job's value is taken to be right when Procrastinate says that it
succeeded and the record of its handler's run bears its number.

Chosen as its documents say:

* *Execute multiple jobs at the same time*: asynchronous tasks and ``concurrency=30``, the document's own figure, in
  each of the worker processes.
* ``listen_notify`` on, as shipped, with the fallback poll of 5 s (*App.run_worker*). Finished jobs are kept, as
  shipped.
* *Batch defer multiple jobs*: ``batch_defer``, here up to a thousand in a call.
* The client uses the synchronous connector, whose pool keeps its connection open. It waits for one job by
  ``get_job_status``, every 2 ms, and for many by the counts of ``list_queues``, every 20 ms.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from typing import ClassVar

import procrastinate
from procrastinate.jobs import Status

from benchmarks.engines.base import Engine, Place, serve
from benchmarks.engines.processes import READY, Workers, runs_here
from benchmarks.shapes import SHAPES, Shape

QUEUE = "bench"
TASK = "plain"
FINAL = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.ABORTED)
BATCH = 1000
"""Jobs in one call of ``batch_defer``."""


class Procrastinate(Engine):
    """Worker processes that each run asynchronous jobs at the same time."""

    shapes = ("plain",)
    bulk: ClassVar[bool]

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._workers = Workers(place)
        self._app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=place.database_url))
        self._jobs = self._app.configure_task(TASK, queue=QUEUE, allow_unknown=True)

    def start(self) -> None:
        """Make the schema, start the workers, have them run one job."""
        self._app.open()
        self._app.schema_manager.apply_schema()
        for number in range(self.place.workers):
            self._workers.start_python(f"worker-{number}", __spec__.name, "worker", self.place.database_url)
        self._workers.all_ready("Procrastinate's workers")
        ((job, _),) = self.submit(SHAPES["plain"], [0])
        self._workers.until(lambda: self._status(job) in FINAL, "Procrastinate's first job")

    def stop(self) -> None:
        """End the workers."""
        self._workers.stop()
        self._app.close()

    def submit(self, shape: Shape, numbers: Sequence[int]) -> Sequence[tuple[int, int]]:
        """By ``batch_defer`` or ``defer``: a job's id and number each."""
        jobs: list[int] = []
        if self.bulk and len(numbers) > 1:
            for first in range(0, len(numbers), BATCH):
                jobs += self._jobs.batch_defer(*({"n": n} for n in numbers[first : first + BATCH]))
        else:
            jobs += (self._jobs.defer(n=n) for n in numbers)
        return list(zip(jobs, numbers, strict=True))

    def wait(self, handles: Sequence[tuple[int, int]], timeout: float) -> Sequence[int]:
        """By polling: the status of one job, or the counts of the queue."""
        deadline = time.monotonic() + timeout
        one = handles[0][0] if len(handles) == 1 else None
        while not (self._status(one) in FINAL if one is not None else self._empty()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"jobs are not final after {timeout:.0f} s")
            time.sleep(0.002 if one is not None else 0.02)
        return []

    def results(self, shape: Shape, handles: Sequence[tuple[int, int]], waited: Sequence[int]) -> Sequence[int]:
        """The numbers of the jobs that succeeded; see the module's docstring."""
        if len(handles) == 1:
            succeeded = {job for job, _ in handles if self._status(job) is Status.SUCCEEDED}
        else:
            succeeded = {job.id for job in self._app.job_manager.list_jobs(queue=QUEUE, status="succeeded")}
        return [shape.value(shape.last, n, ()) if job in succeeded else -1 for job, n in handles]

    def pids(self) -> Sequence[int]:
        """The workers."""
        return self._workers.pids

    def _status(self, job: int) -> Status:
        return self._app.job_manager.get_job_status(job)

    def _empty(self) -> bool:
        return not any(queue["todo"] or queue["doing"] for queue in self._app.job_manager.list_queues(queue=QUEUE))


class Bulk(Procrastinate):
    """Submitted by ``batch_defer``."""

    name = "procrastinate"
    bulk = True


class Single(Procrastinate):
    """Submitted by ``defer``, one by one."""

    name = "procrastinate-single"
    bulk = False


async def worker(database_url: str) -> None:
    """A worker process; its library handles SIGTERM."""
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=database_url))
    runs = runs_here()
    shape = SHAPES["plain"]

    @app.task(name=TASK, queue=QUEUE)
    async def plain(n: int) -> int:
        value = shape.value(shape.last, n, ())
        runs.add(n, shape.positions[shape.last])
        return value

    async with app.open_async():
        print(READY.decode(), flush=True)
        await app.run_worker_async(queues=[QUEUE], concurrency=30, listen_notify=True)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        asyncio.run(worker(sys.argv[2]))
    else:
        serve({"bulk": Bulk, "single": Single}[sys.argv[2]])
