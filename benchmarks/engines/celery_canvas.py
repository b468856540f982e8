"""Celery's canvas: chains, groups and chords, on Redis or on RabbitMQ with results in Redis.

``python -m benchmarks.engines.celery_canvas <place.json> redis|rabbitmq``

The graphs as canvas expresses them, as a chain of their levels: a level of one step is a task, a wider one a group,
which Celery joins to what follows by a chord (*Canvas, Chords*).

* ``linear4`` is a chain; ``diamond``, ``fan100`` and ``wide2000`` are a step, a group and a step: exactly the graph.
* ``tree8`` and ``mixed7`` are two groups in a row, so that one chord is the body of the other: the same steps and
  values, with a barrier between the two levels that the graph does not have. ``mixed7`` cannot be said otherwise, since
  a task of canvas has one predecessor or a whole group. ``tree8`` could (a chord over two chains that each end in a
  group), but Celery 5.7 then joins the inner groups by polling every half second in the worker, and now and then never
  ends.

Chosen as Celery's documents say (user guide, 5.x):

* *Optimizing, Prefetch Limits*: for many short tasks a large multiplier, "say 64, or 128"; here 64.
* *Optimizing, Prefork pool*: ``-O fair``, so that no task waits behind another's in one process's pipe.
* *Tasks, Ignore results you don't want*: ``ignore_result`` for the steps of a chain whose result nobody reads but the
  next one, which gets it in its message. Not for members of a chord: *Canvas, Important Notes* says that they must not.
* *Configuration*: no events (``worker_send_task_events`` off, as shipped), no rate limits (*Tasks, Disable rate
  limits*), ``result_expires`` of a quarter of an hour so that Redis does not grow; no gossip, mingle, worker heartbeat
  and remote control, which one worker alone has no use of (*Workers Guide*, options).
* *Calling Tasks, Connections*: the client keeps its connections in the pool, as it does by itself.

Early acknowledgement is left as shipped, which is the fastest (*Optimizing, Reserve one task at a time*): a step whose
process dies is lost, so Celery is measured without what the durable engines here do. Messages are persistent on
RabbitMQ, as shipped. Redis is taken as it is found: its persistence is the server's setting, and the broker's documents
(*Using Redis*) ask for none.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from celery import Celery, chain, group
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult

from benchmarks.engines.base import Engine, Place, serve
from benchmarks.engines.processes import Workers
from benchmarks.shapes import SHAPES, Runs, Shape

app = Celery("bench", set_as_current=True)


def configure(broker: str, results: str, queue: str) -> None:
    """Give the application its servers and its queue; see the module's docstring for the reasons."""
    app.conf.update(
        broker_url=broker,
        result_backend=results,
        task_default_queue=queue,
        worker_prefetch_multiplier=64,
        worker_disable_rate_limits=True,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        result_expires=900,
        task_serializer="json",
        result_serializer="json",
        broker_connection_retry_on_startup=True,
    )


if "BENCH_BROKER" in os.environ:  # in the worker, which knows no place
    configure(os.environ["BENCH_BROKER"], os.environ["BENCH_RESULTS"], os.environ["BENCH_QUEUE"])

runs = Runs(Path(os.environ.get("BENCH_RUNS", os.devnull)))


@app.task(name="step")
def step(before: Any, shape_name: str, name: str, n: int) -> dict[str, Any]:
    """One step: ``before`` is the result of the task before it in the chain, or the list of a group's."""
    shape = SHAPES[shape_name]
    found = {one["step"]: one["value"] for one in (before if isinstance(before, list) else [before] if before else [])}
    value = shape.value(name, n, (found[parent] for parent in shape.parents[name]))
    runs.add(n, shape.positions[name])
    return {"step": name, "value": value}


def canvas(shape: Shape, n: int) -> Any:
    """The graph of task ``n``, level by level."""

    def one(name: str, **options: Any) -> Any:
        arguments = (shape.name, name, n)
        signature = step.s(*arguments) if shape.parents[name] else step.s(None, *arguments)
        return signature.set(**options)

    depths: dict[str, int] = {}
    for name, parents in shape.parents.items():
        depths[name] = 1 + max((depths[parent] for parent in parents), default=-1)
    levels = [[name for name in depths if depths[name] == depth] for depth in range(max(depths.values()) + 1)]
    *inner, (last,) = levels
    return chain(
        *(
            group(one(name) for name in level) if len(level) > 1 else one(level[0], ignore_result=True)
            for level in inner
        ),
        one(last),
    )


class CeleryCanvas(Engine):
    """One Celery worker with a prefork pool of as many processes as the place wants."""

    broker: ClassVar[str]
    """Which URL of the place is the broker's."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._workers = Workers(place)

    def start(self) -> None:
        """Start the worker, and have it run one task."""
        # A queue of its own, whatever else the broker holds.
        queue = f"bench-{uuid.uuid4().hex[:12]}"
        broker = getattr(self.place, self.broker)
        configure(broker, self.place.redis_url, queue)
        arguments = ["-O", "fair", "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "warning"]
        self._workers.start(
            "worker",
            [sys.executable, "-m", "celery", "-A", __spec__.name, "worker", "-c", str(self.place.workers), *arguments],
            {"BENCH_BROKER": broker, "BENCH_RESULTS": self.place.redis_url, "BENCH_QUEUE": queue},
        )
        (ready,) = self.submit(SHAPES["plain"], [0])
        self._workers.until(ready.ready, "Celery's worker")

    def stop(self) -> None:
        """End the worker; remove the queue."""
        self._workers.stop()
        if app.conf.task_default_queue == "celery":
            return  # not begun
        with app.connection_for_write() as connection, connection.channel() as channel:
            channel.queue_delete(app.conf.task_default_queue)
        app.close()

    def submit(self, shape: Shape, numbers: Sequence[int]) -> Sequence[AsyncResult]:
        """One ``apply_async`` each: canvas has nothing for many at once."""
        return [canvas(shape, n).apply_async() for n in numbers]

    def wait(self, handles: Sequence[AsyncResult], timeout: float) -> Sequence[int]:
        """By ``get``: Redis tells the client by publishing."""
        deadline = time.monotonic() + timeout
        try:
            return [handle.get(timeout=max(0.001, deadline - time.monotonic()))["value"] for handle in handles]
        except CeleryTimeoutError as error:
            raise TimeoutError(str(error)) from error

    def pids(self) -> Sequence[int]:
        """The worker; its pool are its children."""
        return self._workers.pids


class CeleryRedis(CeleryCanvas):
    """Redis as broker and for results."""

    name = "celery-redis"
    broker = "redis_url"


class CeleryRabbitMQ(CeleryCanvas):
    """RabbitMQ as broker, Redis for results."""

    name = "celery-rabbitmq"
    broker = "amqp_url"


if __name__ == "__main__":
    # The worker imports this module by its name: its task and application are to be the same here.
    sys.modules[__spec__.name] = sys.modules[__name__]
    serve({"redis": CeleryRedis, "rabbitmq": CeleryRabbitMQ}[sys.argv[2]])
