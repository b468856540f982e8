"""Domain events: how many one executor stores with its steps or hands over at once, and how many one consumer takes.

A chain of four, in three forms: its steps publish nothing, four durable events each, or four fast ones. One executor in
this process runs each; what it stored is then read by one consumer, whose handler counts. Fast events are counted by a
subscriber, on its thread in the same process, as long as steps run: those that are dropped then are not counted.
"""

from __future__ import annotations

import time

from benchmarks.engines.tasker_setup import NAMESPACE, environment, template_of
from benchmarks.figures.found import Found
from benchmarks.figures.sizes import Sizes
from benchmarks.inside import CHAIN, create, executor_here
from benchmarks.servers import Servers
from benchmarks.shapes import Shape, WrongResult
from tasker import DomainEvent, Tasker, subscribe
from tasker.config.manager import ConfigManager
from tasker.database.connection import Database
from tasker.database.migrations import migrate
from tasker.workflows.loading import load_template
from tasker.workflows.registry import TemplateRegistry

EVENTS = 4
"""Of each step."""

BATCH, CONSUMED_AT_ONCE = 200, 1000
WARM_TASKS = 100
LONGEST_SECONDS = 300.0
SHAPES = {kind: Shape(f"{kind}4", CHAIN.parents) for kind in ("silent", "durable", "fast")}

_heard = 0


@subscribe("told.fast.*")
def hear(_event: DomainEvent) -> None:
    """Count."""
    global _heard
    _heard += 1


def measure(found: Servers, sizes: Sizes) -> Found:
    """Events per second stored, consumed and heard; steps per second that store, against such that publish nothing."""
    url = found.postgresql.create()
    figures: dict[str, list[float]] = {}
    try:
        migrate(url)
        _register(url)
        with executor_here(url, BATCH) as loop, Tasker(url) as client:

            def seconds(kind: str, tasks: int) -> float:
                create(client, SHAPES[kind], tasks)
                begun = time.perf_counter()
                loop.run_until_idle(LONGEST_SECONDS)
                return time.perf_counter() - begun

            for kind in SHAPES:
                seconds(kind, WARM_TASKS)
            tasks = max(WARM_TASKS, round(sizes.seconds * WARM_TASKS / seconds("silent", WARM_TASKS)))
            _consume(client)
            events = tasks * CHAIN.steps * EVENTS
            for number in range(sizes.rounds):
                before = _heard
                taken = {kind: seconds(kind, tasks) for kind in sorted(SHAPES, reverse=bool(number % 2))}
                heard = _heard - before
                begun = time.perf_counter()
                consumed = _consume(client)
                reading = time.perf_counter() - begun
                if consumed != events:
                    raise WrongResult(f"{consumed} events were stored instead of {events}")
                for name, value in (
                    ("stored", events / taken["durable"]),
                    ("consumed", events / reading),
                    ("steps", tasks * CHAIN.steps / taken["durable"]),
                    ("ratio", taken["silent"] / taken["durable"]),
                    ("fast_ratio", taken["silent"] / taken["fast"]),
                    ("heard", heard / taken["fast"]),
                ):
                    figures.setdefault(f"domain_events_{name}", []).append(value)
    finally:
        found.postgresql.drop(url)
    return Found(figures, size=events)


def _register(url: str) -> None:
    database = Database(url)
    try:
        registry = TemplateRegistry(database, ConfigManager.load(environ=environment(url)))
        for kind, shape in SHAPES.items():
            text = template_of(shape, handler="times")
            if kind != "silent":
                names = ", ".join(f"{{name: told.{kind}.{n}, delivery_mode: {kind}}}" for n in range(EVENTS))
                lines = [
                    f"{line}\n    publishes_events: [{names}]" if line.startswith("    handler:") else line
                    for line in text.splitlines()
                ]
                text = "\n".join(lines) + "\n"
            registry.register(load_template(text))
    finally:
        database.close()


def _consume(client: Tasker) -> int:
    return client.consume_events(NAMESPACE, "*", lambda _event: None, batch_size=CONSUMED_AT_ONCE, until_empty=True)
