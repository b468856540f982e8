"""Hearing a cluster's events as Flower does, for tests: over the worker's broker, into Celery's own state."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from celery import Celery
from celery.events.state import State, Task

from tests.waiting import wait_until


class Watcher:
    """What was heard so far. Events are taken in by a thread of its own.

    Args:
        app: a Celery app with the cluster's broker.
    """

    def __init__(self, app: Celery) -> None:
        self.state = State()
        self.events: list[dict[str, Any]] = []
        self._app = app
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ending = False

    def of(self, uuid: object) -> list[str]:
        """The types of the events of a step, in the order in which they came."""
        return [event["type"] for event in list(self.events) if event.get("uuid") == str(uuid)]

    def task(self, uuid: object) -> Task | None:
        """What Celery's state makes of a step."""
        return self.state.tasks.get(str(uuid))

    def wait_for(self, uuid: object, *types: str) -> Task:
        """The step, once these of its events have come."""
        wait_until(lambda: set(types) <= set(self.of(uuid)), f"{types} of {uuid}")
        task = self.task(uuid)
        assert task is not None
        return task

    def _run(self) -> None:
        with self._app.connection_for_read() as connection:
            receiver = self._app.events.Receiver(connection, handlers={"*": self._heard})
            with receiver.consumer_context() as (_, channel, _consumers):
                while not self._ending:
                    with contextlib.suppress(TimeoutError, OSError):
                        channel.connection.client.drain_events(timeout=0.1)
                    # On Redis it is with the first look that one subscribes.
                    self._listening.set()

    def _heard(self, event: dict[str, Any]) -> None:
        # The state changes what it is given.
        self.events.append(dict(event))
        self.state.event(event)

    def start(self) -> None:
        self._thread.start()
        assert self._listening.wait(30)

    def end(self) -> None:
        self._ending = True
        self._thread.join(10)


@contextlib.contextmanager
def watched(app: Celery) -> Iterator[Watcher]:
    """Events are heard from here to the end of the block."""
    watcher = Watcher(app)
    watcher.start()
    try:
        yield watcher
    finally:
        watcher.end()
