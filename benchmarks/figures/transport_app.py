"""The Celery program of `benchmarks.figures.transport`: the same for both brokers, and nothing of workflows.

Workers import it with ``BENCH_BROKER``, ``BENCH_NAME`` and ``BENCH_RUNS`` set.
"""

from __future__ import annotations

import functools
import os
import struct
import time
from typing import Any

from celery import Celery

from tasker.messaging.transport.registration import register

register()

RECORD = struct.Struct("<qd")
"""What a task writes: its number, and when it was entered (seconds since 1970)."""


def make_app(broker: str, name: str) -> Celery:
    """Celery as shipped, but for names of its own: other programs may use the same Redis.

    Args:
        broker: URL.
        name: of the queue, and in the names of the exchanges for control and events.
    """
    app = Celery(f"bench-{name}", broker=broker, set_as_current=False)
    app.conf.update(
        task_default_queue=name,
        control_exchange=f"{name}_control",
        event_exchange=f"{name}_events",
        event_queue_prefix=f"{name}_celeryev",
        task_ignore_result=True,
        broker_connection_retry_on_startup=True,
    )
    return app


app = make_app(os.environ.get("BENCH_BROKER", "memory://"), os.environ.get("BENCH_NAME", "bench"))


@functools.cache
def _records() -> int:
    return os.open(os.environ["BENCH_RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


@app.task(name="nothing")
def nothing(number: int) -> None:
    """Tell when it began; a short write in append mode does not mix with another's."""
    os.write(_records(), RECORD.pack(number, time.time()))


@app.task(name="hang", bind=True)
def hang(self: Any, number: int) -> None:
    """Go on until the process is ended; tells its process."""
    os.write(_records(), RECORD.pack(number, float(os.getpid())))
    time.sleep(600)
