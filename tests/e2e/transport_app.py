"""A Celery program for the tests of the transport: it knows Celery and the broker URL, and nothing of workflows."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.exceptions import Reject
from kombu import Queue
from kombu.common import Broadcast

from tasker.messaging.transport.registration import register

register()

BROKER_VARIABLE = "TRANSPORT_TEST_BROKER"
LOG_VARIABLE = "TRANSPORT_TEST_LOG"

app = Celery("transport_app", broker=os.environ.get(BROKER_VARIABLE, "tasker-pgmq://"), set_as_current=False)
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"housekeeping_interval": 0.3},
    task_ignore_result=True,
    task_queues=[Queue("celery"), Queue("other"), Broadcast("everybody")],
    worker_cancel_long_running_tasks_on_connection_loss=False,
    beat_schedule={"tick": {"task": "note", "schedule": 0.2, "args": ["tick"]}},
)


def write(line: str) -> None:
    """One line of the test's log; short writes to a file in append mode do not mix."""
    with Path(os.environ[LOG_VARIABLE]).open("a") as log:
        log.write(f"{line}\n")


@app.task(shared=False, name="note")
def note(text: str) -> None:
    write(text)


@app.task(shared=False, name="note_time")
def note_time(text: str) -> None:
    write(f"{text} {time.time()}")


@app.task(shared=False, name="late", acks_late=True, bind=True)
def late(self: Task[Any, Any], text: str, seconds: float = 0.0) -> None:
    write(f"start {text} {bool(self.request.delivery_info['redelivered'])}")
    time.sleep(seconds)
    write(f"end {text}")


@app.task(shared=False, name="refuse_once", acks_late=True, bind=True)
def refuse_once(self: Task[Any, Any], text: str) -> None:
    again = bool(self.request.delivery_info["redelivered"])
    write(f"{text} {again}")
    if not again:
        raise Reject(requeue=True)


@app.task(shared=False, name="retry_once", bind=True)
def retry_once(self: Task[Any, Any], text: str) -> None:
    write(f"{text} {self.request.retries}")
    if self.request.retries == 0:
        raise self.retry(countdown=0.1)


@app.task(shared=False, name="die", acks_late=True)
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
