"""What it costs that every step is told as a Celery task event, which is what ``-E`` and Flower ask for.

One Celery worker with two executors works off chains of four, switched at runtime: without events; with events that
nobody hears; with events and a program that takes all of them in, on the same machine, as Celery's own monitors do. In
the next round the order is the other way round, and ratios are formed within each round.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from celery import Celery

from benchmarks.engines.base import Place
from benchmarks.engines.tasker_setup import LEARNED_SECONDS, NAMESPACE
from benchmarks.figures.found import Found
from benchmarks.figures.sizes import Sizes
from benchmarks.inside import CHAIN, database
from benchmarks.meters import Meter
from benchmarks.program import Program
from benchmarks.servers import Servers
from tasker.messaging.transport.address import broker_url_of
from tasker.messaging.transport.registration import register as register_transport

WAYS = ("off", "unheard", "heard")
EXECUTORS = 2
"""As many as a small machine has cores: with one, the worker's main process would have a core for itself."""
WARM_TASKS = 100
ANSWER_SECONDS = 5.0
PATIENCE_SECONDS = 30.0


class Listener:
    """A program that takes in all events, from a thread of its own, and counts steps that ended well."""

    def __init__(self, app: Celery) -> None:
        self.ended = 0
        self._app = app
        self._ending = False
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with self._app.connection_for_read() as connection:
            receiver = self._app.events.Receiver(connection, handlers={"task-succeeded": self._count})
            # The receiver listens over a connection of its own.
            with receiver.consumer_context() as (_, channel, _consumers):
                self._listening.set()
                while not self._ending:
                    with contextlib.suppress(TimeoutError, OSError):
                        channel.connection.client.drain_events(timeout=0.1)

    def _count(self, event: dict[str, Any]) -> None:
        self.ended += str(event.get("name", "")).startswith(f"{NAMESPACE}.")

    def __enter__(self) -> Listener:
        self._thread.start()
        self._listening.wait(PATIENCE_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._thread.join(PATIENCE_SECONDS)


def measure(found: Servers, sizes: Sizes) -> Found:
    """Steps per second each way, ratios to those without events, of the workers' CPU too, the share that was heard."""
    figures: dict[str, list[float]] = {}
    with _engine(found) as (program, app):
        for tasks in (WARM_TASKS // 10, WARM_TASKS, WARM_TASKS):
            rate = tasks / _seconds(program, tasks)
        time.sleep(LEARNED_SECONDS)
        trial = max(WARM_TASKS, round(sizes.seconds / 4 * rate))
        tasks = max(WARM_TASKS, round(sizes.seconds * trial / _seconds(program, trial)))
        for number in range(sizes.rounds):
            rates, spent = {}, {}
            for way in WAYS if number % 2 == 0 else WAYS[::-1]:
                switch(app, on=way != "off")
                with Listener(app) if way == "heard" else contextlib.nullcontext() as listener:
                    meter = Meter({"workers": program.workers})
                    rates[way] = tasks * CHAIN.steps / _seconds(program, tasks)
                    spent[way] = meter.spent()["workers"]
                    if listener is not None:
                        share = _heard(listener, tasks * CHAIN.steps)
            for way in WAYS:
                figures.setdefault(f"step_events_{way}_rate", []).append(rates[way])
            for way in WAYS[1:]:
                figures.setdefault(f"step_events_{way}", []).append(rates[way] / rates["off"])
                if spent["off"]:
                    figures.setdefault(f"step_events_{way}_cpu", []).append(spent[way] / spent["off"])
            figures.setdefault("step_events_share", []).append(share)
    return Found(figures, size=tasks * CHAIN.steps)


def switch(app: Celery, *, on: bool) -> None:
    """Switch events on or off, and wait until all workers know it."""
    app.control.broadcast("enable_events" if on else "disable_events")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        replies = app.control.broadcast("tasker_stats", reply=True, timeout=ANSWER_SECONDS, limit=2)
        answers = [answer for reply in replies or () for answer in reply.values()]
        if len(answers) == 2 and all(answer["events"]["wanted"] is on for answer in answers):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"events could not be switched {'on' if on else 'off'}: {answers}")
        time.sleep(0.1)


@contextlib.contextmanager
def _engine(found: Servers) -> Iterator[tuple[Program, Celery]]:
    with database(found.postgresql) as url, tempfile.TemporaryDirectory(prefix="tasker-bench-") as folder:
        register_transport()
        app = Celery("bench", broker=broker_url_of(url), set_as_current=False)
        try:
            with Program("tasker-hosted", Place(url, "", "", str(Path(folder) / "engine"), EXECUTORS)) as program:
                program.start()
                yield program, app
                program.stop()
        finally:
            app.pool.force_close_all()
            app.close()


def _seconds(program: Program, tasks: int) -> float:
    answer = program.ask(630, do="throughput", shape=CHAIN.name, tasks=tasks, timeout=600)
    return float(answer["seconds"])


def _heard(listener: Listener, steps: int) -> float:
    """The share of steps of whose end an event came; the last ones are waited for as long as others still come."""
    seen = -1
    while seen < listener.ended < steps:
        seen = listener.ended
        time.sleep(1)
    return listener.ended / steps
