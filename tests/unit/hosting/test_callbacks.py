"""Callbacks of Celery tasks on another broker, here one in this process's memory."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest
from celery import Celery

from tasker.errors import NotFound
from tasker.executors.stop import StopSignal
from tasker.hosting.callbacks import CallbackReceiver
from tasker.hosting.delegation import STEP_FAILED, STEP_SUCCEEDED, CelerySteps, StepApp
from tests.waiting import wait_until

STEP = {"task_uuid": "t", "step_uuid": "s", "position": 0, "map_index": 0, "fence": 1, "executor": "e"}


class Bridge:
    """A receiver at work, and a program that sends callbacks."""

    def __init__(self) -> None:
        self.queue = f"callbacks-{uuid.uuid4()}"
        self.app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
        self.app.conf.broker_transport_options = {"polling_interval": 0.01}
        self.posted: list[Mapping[str, Any]] = []
        self.errors: list[Exception] = []
        """What the next posts raise."""

        self.stop = StopSignal()
        self.steps = CelerySteps(lambda: StepApp(self.app, self.queue, is_other=True))
        self.receiver = CallbackReceiver(self.steps, self._post, max_result_bytes=1000, stop=self.stop)

    def _post(self, outcome: Mapping[str, Any]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.posted.append(outcome)

    def send(self, task: str, *args: Any, serializer: str = "json", **kwargs: Any) -> None:
        self.app.send_task(task, args, kwargs, queue=self.queue, serializer=serializer)

    def wait_for(self, count: int) -> list[Mapping[str, Any]]:
        wait_until(lambda: len(self.posted) >= count, f"{count} outcomes were posted")
        return self.posted

    def waiting(self) -> int:
        with self.app.connection_for_read() as connection:
            return int(connection.default_channel.queue_declare(self.queue, passive=True).message_count)


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    made = Bridge()
    made.receiver.start()
    yield made
    made.stop.set()
    made.receiver.end()
    assert not any(thread.name == "tasker-callbacks" for thread in threading.enumerate())
    made.stop.close()
    made.app.close()


def test_a_result_becomes_the_steps_outcome(bridge: Bridge) -> None:
    bridge.send(STEP_SUCCEEDED, {"paid": 7}, step=STEP)
    assert bridge.wait_for(1) == [{**STEP, "status": "complete", "results": {"paid": 7}}]


def test_a_result_that_cannot_be_stored_is_the_steps_error(bridge: Bridge) -> None:
    bridge.send(STEP_SUCCEEDED, "x" * 2000, step=STEP)
    (outcome,) = bridge.wait_for(1)
    assert (outcome["error"]["type"], outcome["error"]["retryable"]) == ("result_not_storable", False)


def test_a_failure_is_explained_by_the_result_backend(bridge: Bridge) -> None:
    bridge.app.backend.mark_as_failure("known", ValueError("no such card"))
    bridge.send(STEP_FAILED, "known", step=STEP)
    bridge.send(STEP_FAILED, "unknown", step=STEP)
    known, unknown = bridge.wait_for(2)
    assert (known["error"]["type"], known["error"]["message"]) == ("ValueError", "no such card")
    assert unknown["error"]["type"] == "celery_task_failed"


def test_what_is_no_callback_is_dropped_and_stops_nobody(bridge: Bridge) -> None:
    bridge.send("shop.charge", 1, step=STEP)
    bridge.send(STEP_SUCCEEDED, step=STEP)
    bridge.send(STEP_SUCCEEDED, 1)
    bridge.send(STEP_SUCCEEDED, 1, step=STEP, serializer="pickle")
    bridge.send(STEP_SUCCEEDED, "last", step=STEP)
    (outcome,) = bridge.wait_for(1)
    assert outcome["results"] == "last"
    assert bridge.waiting() == 0


def test_an_outcome_waits_for_a_database_that_is_away(bridge: Bridge) -> None:
    bridge.errors = [psycopg.OperationalError("away")]
    bridge.send(STEP_SUCCEEDED, 1, step=STEP)
    bridge.send(STEP_SUCCEEDED, 2, step=STEP)
    assert [outcome["results"] for outcome in bridge.wait_for(2)] == [1, 2]


def test_an_outcome_that_the_database_refuses_is_dropped(bridge: Bridge) -> None:
    bridge.errors = [NotFound("no such queue")]
    bridge.send(STEP_SUCCEEDED, 1, step=STEP)
    bridge.send(STEP_SUCCEEDED, 2, step=STEP)
    assert [outcome["results"] for outcome in bridge.wait_for(1)] == [2]


def test_the_first_version_of_celerys_protocol_is_read_too(bridge: Bridge) -> None:
    bridge.app.conf.task_protocol = 1
    bridge.send(STEP_SUCCEEDED, 5, step=STEP)
    (outcome,) = bridge.wait_for(1)
    assert outcome["results"] == 5
