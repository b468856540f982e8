"""Tasker: ``python -m benchmarks.engines.tasker <place.json> hosted|bare``.

* ``hosted`` is what its documentation says to run: a Celery worker whose prefork slots are step executors, and one with
  a thread for orchestration, which sends the messages of wide fan-outs. The broker is the same PostgreSQL.
* ``bare`` are the same executors in plain processes, without Celery: what hosting costs is the difference.

Settings as shipped. Tasks are created by ``create_many``, a thousand or 10,000 steps in one transaction. The client
waits by ``wait_all``. States come without results, so these are read afterwards: within a latency, by
``Tasker.results`` as a program would, and after a throughput, when the clock has stopped.
"""

from __future__ import annotations

import abc
import sys
from collections.abc import Sequence

import psycopg

from benchmarks.engines.base import Engine, Place, serve
from benchmarks.engines.processes import Workers
from benchmarks.engines.tasker_setup import (
    CELERY_WORKER,
    LEARNED_SECONDS,
    count_executors,
    environment,
    register,
    request,
    set_up,
    start_celery_worker,
    start_plain_executor,
)
from benchmarks.shapes import SHAPES, Shape
from tasker import Tasker, TaskTimeout
from tasker.client.handle import TaskHandle

CHUNK_TASKS = 1000
CHUNK_STEPS = 10_000

VALUES = """
    SELECT k.no, s.results->>'value'
    FROM unnest(CAST(%s AS uuid[])) WITH ORDINALITY AS k(task_uuid, no)
    JOIN tasker.tasks AS t USING (task_uuid)
    JOIN tasker.named_steps AS n ON n.named_task_id = t.named_task_id AND n.name = %s
    JOIN tasker.workflow_steps AS s ON s.task_uuid = t.task_uuid AND s.position = n.position
    WHERE t.state = 'complete' ORDER BY k.no
"""


class TaskerEngine(Engine):
    """What hosted and bare have in common: all but the processes."""

    settles = LEARNED_SECONDS

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._workers = Workers(place)
        self._registered: set[str] = set()

    def start(self) -> None:
        """Migrate, and start the executors."""
        # Workers that find the namespace serve it at once; one that comes later they notice within 10 s.
        self._registered = set(set_up(self.place.database_url, SHAPES["linear4"]))
        self._client = Tasker(self.place.database_url)
        self._database = psycopg.connect(self.place.database_url, autocommit=True)
        self.start_workers()
        self._workers.until(
            lambda: count_executors(self.place.database_url) >= self.place.workers + 1, "Tasker's executors"
        )

    @abc.abstractmethod
    def start_workers(self) -> None:
        """Start ``place.workers`` step executors and one orchestration loop."""

    def stop(self) -> None:
        """End the workers."""
        self._workers.stop(40)
        self._client.close()
        self._database.close()

    def submit(self, shape: Shape, numbers: Sequence[int]) -> Sequence[TaskHandle]:
        """By ``create_many``; any other shape is registered before its first task, which is one of the warm-up."""
        if shape.name not in self._registered:
            register(self.place.database_url, shape)
            self._registered.add(shape.name)
        size = max(1, min(CHUNK_TASKS, CHUNK_STEPS // shape.steps))
        handles: list[TaskHandle] = []
        for first in range(0, len(numbers), size):
            handles += self._client.create_many([request(shape, n) for n in numbers[first : first + size]])
        return handles

    def wait(self, handles: Sequence[TaskHandle], timeout: float) -> Sequence[int]:
        """By ``wait_all``."""
        try:
            self._client.wait_all(handles, timeout)
        except TaskTimeout as error:
            raise TimeoutError(str(error)) from error
        return ()

    def results(self, shape: Shape, handles: Sequence[TaskHandle], waited: Sequence[int]) -> Sequence[int]:
        """One by one from the client, many by SQL; a task that did not end well has none."""
        if len(handles) == 1:
            return [self._client.results(handles[0])[shape.last]["value"]]
        values = [-1] * len(handles)
        for number, value in self._database.execute(VALUES, [[h.task_uuid for h in handles], shape.last]):
            values[number - 1] = int(value)
        return values

    def pids(self) -> Sequence[int]:
        """The steps' process or processes first, orchestration last."""
        return self._workers.pids


class Hosted(TaskerEngine):
    """Celery workers."""

    name = "tasker-hosted"

    def start_workers(self) -> None:
        """One worker with prefork slots for steps, one with a thread for orchestration."""
        start_celery_worker(self._workers, self.place.database_url, self.place.workers)
        self._workers.start(
            "orchestration",
            [*CELERY_WORKER, "-Q", "orchestration", "-P", "threads", "-c", "1", "-n", "orchestration@%h"],
            environment(self.place.database_url),
        )


class Bare(TaskerEngine):
    """Plain processes."""

    name = "tasker-bare"

    def start_workers(self) -> None:
        """One process for each executor."""
        for number in range(self.place.workers):
            start_plain_executor(self._workers, f"steps{number}", "steps", self.place.database_url)
        start_plain_executor(self._workers, "orchestration", "orchestration", self.place.database_url)


if __name__ == "__main__":
    serve({"hosted": Hosted, "bare": Bare}[sys.argv[2]])
