"""A Celery program that knows its broker by URL alone: what Celery's users rely on, to be tried on any broker."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.exceptions import Reject

from tasker.messaging.transport.registration import register

register()

LOG_VARIABLE = "PARITY_LOG"
SETTINGS_VARIABLE = "PARITY_SETTINGS"


def write(line: str) -> None:
    """One line of the test's log; short writes to a file in append mode do not mix."""
    with Path(os.environ[LOG_VARIABLE]).open("a") as log:
        log.write(f"{line}\n")


def make_app(settings: Mapping[str, Any]) -> Celery:
    """The program, on the broker that the settings name."""
    app = Celery("parity", set_as_current=False)
    app.conf.update(
        {
            "broker_connection_retry_on_startup": True,
            "worker_cancel_long_running_tasks_on_connection_loss": False,
            **settings,
        }
    )

    @app.task(shared=False, name="note", ignore_result=True)
    def note(text: str) -> None:
        write(text)

    @app.task(shared=False, name="timed", ignore_result=True)
    def timed(text: str) -> None:
        write(f"{text} {time.time()}")

    @app.task(shared=False, name="limited", ignore_result=True, rate_limit="4/s")
    def limited(text: str) -> None:
        write(f"{text} {time.time()}")

    @app.task(shared=False, name="slow", ignore_result=True)
    def slow(text: str, seconds: float) -> None:
        write(f"{text} begins")
        time.sleep(seconds)
        write(f"{text} ends")

    @app.task(shared=False, name="slow_late", ignore_result=True, acks_late=True, bind=True)
    def slow_late(self: Task[Any, Any], text: str, seconds: float) -> None:
        write(f"{text} begins {bool(self.request.delivery_info['redelivered'])}")
        time.sleep(seconds)
        write(f"{text} ends")

    @app.task(shared=False, name="refuse", ignore_result=True, acks_late=True, bind=True)
    def refuse(self: Task[Any, Any], text: str, requeue: bool) -> None:
        again = bool(self.request.delivery_info["redelivered"])
        write(f"{text} {again}")
        if not again:
            raise Reject("not now", requeue=requeue)

    @app.task(shared=False, name="fail_late", ignore_result=True, acks_late=True, acks_on_failure_or_timeout=False)
    def fail_late(text: str) -> None:
        write(text)
        raise ValueError(text)

    @app.task(
        shared=False, name="fail_twice", bind=True, autoretry_for=(ValueError,), default_retry_delay=0, max_retries=3
    )
    def fail_twice(self: Task[Any, Any], text: str) -> str:
        write(f"{text} {self.request.retries} {self.request.delivery_info['priority']}")
        if self.request.retries < 2:
            raise ValueError(text)
        return text

    @app.task(shared=False, name="echo")
    def echo(value: Any) -> Any:
        return value

    @app.task(shared=False, name="add")
    def add(one: int, other: int) -> int:
        return one + other

    @app.task(shared=False, name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    return app


app = make_app(json.loads(os.environ.get(SETTINGS_VARIABLE, "{}")))
