"""PgQueuer, a job queue on PostgreSQL; ``python -m benchmarks.engines.pgqueuer <place.json> bulk|single``.

It has no graphs, so that it runs the shape ``plain`` alone, submitted in bulk (``enqueue`` with lists) or one by one.
It keeps no return values either: a job's value is taken to be right when PgQueuer says that it was successful and the
record of its handler's run bears its number.

Chosen as its documents say (*Performance Tuning*, *Completion Tracking*):

* "a single connection for QueueManager", of asyncpg, in each of the worker processes; a pool for the producer.
* A larger ``batch_size`` for short jobs than 10, as shipped; here 50. ``max_concurrent_tasks`` is left without a limit.
* ``durable`` tables, as shipped; ``pgq autovac``'s settings, as its checklist has it.
* The client waits by ``CompletionWatcher``, told by notifications. Its ``debounce``, 50 ms as shipped, is kept for many
  jobs, whose state it asks for all at once, and is 1 ms for one. Workers write outcomes in batches, after a tenth of a
  second at the latest, which is most of the latency; PgQueuer has no setting for that.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import ClassVar

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.core.completion import CompletionWatcher
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.engines.base import Engine, Place, serve
from benchmarks.engines.processes import READY, Workers, runs_here
from benchmarks.shapes import SHAPES, Shape

ENTRYPOINT = "plain"
BATCH = 1000
"""Jobs in one call of ``enqueue``."""


class PgQueuerEngine(Engine):
    """Worker processes with a queue manager each, and a client with an event loop of its own."""

    shapes = ("plain",)
    bulk: ClassVar[bool]

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._workers = Workers(place)
        self._loop = asyncio.Runner()
        self._pool: asyncpg.Pool | None = None

    def start(self) -> None:
        """Make the schema, start the workers, have them run one job."""
        self._loop.run(self._open())
        for number in range(self.place.workers):
            self._workers.start_python(f"worker-{number}", __spec__.name, "worker", self.place.database_url)
        self._workers.all_ready("PgQueuer's workers")
        (job,) = self.submit(SHAPES["plain"], [0])
        self.results(SHAPES["plain"], [job], self.wait([job], 30))

    async def _open(self) -> None:
        self._pool = await asyncpg.create_pool(self.place.database_url, min_size=2, max_size=5)
        self._driver = AsyncpgPoolDriver(self._pool)
        self._queries = Queries(self._driver)
        await self._queries.install()
        await self._queries.optimize_autovacuum()

    def stop(self) -> None:
        """End the workers."""
        self._workers.stop()
        if self._pool is not None:
            self._loop.run(self._close(self._pool))
        self._loop.close()

    async def _close(self, pool: asyncpg.Pool) -> None:
        async with self._driver:  # ends its listening
            pass
        await pool.close()

    def submit(self, shape: Shape, numbers: Sequence[int]) -> Sequence[tuple[int, int]]:
        """By ``enqueue``: a job's id and number each."""
        return self._loop.run(self._submit(numbers))

    async def _submit(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        jobs: list[int] = []
        if self.bulk:
            for first in range(0, len(numbers), BATCH):
                payloads: list[bytes | None] = [str(n).encode() for n in numbers[first : first + BATCH]]
                jobs += await self._queries.enqueue([ENTRYPOINT] * len(payloads), payloads, [0] * len(payloads))
        else:
            for n in numbers:
                jobs += await self._queries.enqueue(ENTRYPOINT, str(n).encode())
        return list(zip(jobs, numbers, strict=True))

    def wait(self, handles: Sequence[tuple[int, int]], timeout: float) -> Sequence[int]:
        """By the library's watcher."""
        self._found = self._loop.run(asyncio.wait_for(self._wait(handles), timeout))
        return []

    async def _wait(self, handles: Sequence[tuple[int, int]]) -> list[str]:
        debounce = timedelta(milliseconds=50 if len(handles) > 1 else 1)
        async with CompletionWatcher(self._driver, queries=self._queries, debounce=debounce) as watcher:
            return await asyncio.gather(*(watcher.wait_for(job) for job, _ in handles))

    def results(self, shape: Shape, handles: Sequence[tuple[int, int]], waited: Sequence[int]) -> Sequence[int]:
        """The numbers of the jobs that were successful; see the module's docstring."""
        return [
            shape.value(shape.last, n, ()) if status == "successful" else -1
            for (_, n), status in zip(handles, self._found, strict=True)
        ]

    def pids(self) -> Sequence[int]:
        """The workers."""
        return self._workers.pids


class Bulk(PgQueuerEngine):
    """Submitted by ``enqueue`` with lists."""

    name = "pgqueuer"
    bulk = True


class Single(PgQueuerEngine):
    """Submitted by ``enqueue``, one by one."""

    name = "pgqueuer-single"
    bulk = False


async def worker(database_url: str) -> None:
    """A worker process."""
    runs = runs_here()
    shape = SHAPES["plain"]
    connection = await asyncpg.connect(database_url)
    queuer = PgQueuer.from_asyncpg_connection(connection)

    @queuer.entrypoint(ENTRYPOINT)
    async def plain(job: Job) -> None:
        assert job.payload is not None
        runs.add(int(job.payload), shape.positions[shape.last])

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queuer.shutdown.set)
    print(READY.decode(), flush=True)
    await queuer.run(batch_size=50)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        asyncio.run(worker(sys.argv[2]))
    else:
        serve({"bulk": Bulk, "single": Single}[sys.argv[2]])
