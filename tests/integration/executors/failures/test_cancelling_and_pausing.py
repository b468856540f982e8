"""Tasks that are cancelled, or paused and resumed, at every moment of a step."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tasker.database import functions
from tests.integration.executors.failures.kinds import (
    MINUTE,
    Kind,
    Kinds,
    cancelled,
    fail,
    failed,
    held,
    paused,
    queued,
    refuse,
    sleep,
    wait,
    waits,
)
from tests.integration.executors.matrix import APART, Bench, Expected

pytestmark = pytest.mark.orchestration

kind = Kinds()


@kind("cancelled before anything ran")
def _(bench: Bench) -> None:
    bench.on_all(functions.cancel_tasks)
    bench.run()
    bench.check_end(cancelled(others="cancelled", runs=0, attempts=0))


@kind("cancelled before it runs", namespace=APART)
def _(bench: Bench) -> None:
    bench.run(apart=False)
    bench.check(queued())
    bench.on_all(functions.cancel_tasks)
    bench.run()
    bench.check_end(cancelled(runs=0, attempts=0))


@kind("cancelled while it runs", sleep(1))
def _(bench: Bench) -> None:
    with bench.working():
        bench.wait_until_held()
        bench.check(held())
        bench.on_all(functions.cancel_tasks)
        bench.wait_until_left()
    bench.run()
    bench.check_end(cancelled())


@kind("cancelled while it runs, and the handler answers all the same", wait())
def _(bench: Bench) -> None:
    with bench.working(heartbeat_seconds=3600):
        bench.wait_until_held()
        bench.on_all(functions.cancel_tasks)
        bench.gate.set()
        bench.wait_until_left()
    bench.run()
    bench.check_end(cancelled())


@kind("cancelled while it waits for its next attempt", fail(1), **MINUTE)
def _(bench: Bench) -> None:
    bench.run()
    bench.check(waits())
    bench.on_all(functions.cancel_tasks)
    bench.wait_and_run(61)
    bench.check_end(cancelled(error="later"))


@kind("cancelled once it has failed", refuse)
def _(bench: Bench) -> None:
    bench.run()
    bench.on_all(functions.cancel_tasks, changed=False)
    bench.check_end(failed("card_unknown"))


@kind("paused before it runs, and resumed", namespace=APART)
def _(bench: Bench) -> None:
    bench.run(apart=False)
    bench.on_all(functions.pause_tasks)
    bench.run()
    bench.check(queued(task="paused"))
    bench.on_all(functions.resume_tasks)
    bench.run()
    bench.check_end(Expected())


@kind("paused before anything ran, and resumed")
def _(bench: Bench) -> None:
    bench.on_all(functions.pause_tasks)
    bench.run()
    bench.on_all(functions.resume_tasks)
    bench.run()
    bench.check_end(Expected())


@kind("paused while it runs, and resumed when it is done", wait())
def _(bench: Bench) -> None:
    with bench.working():
        bench.wait_until_held()
        bench.on_all(functions.pause_tasks)
        bench.gate.set()
        bench.wait_until_settled()
    bench.run()
    bench.check(paused(Expected(task="paused", below="pending", below_ready="enqueued", finishes=()), last=Expected()))
    bench.on_all(functions.resume_tasks, changed=None)
    bench.run()
    bench.check_end(Expected())


@kind("paused and resumed while it runs", wait())
def _(bench: Bench) -> None:
    with bench.working():
        bench.wait_until_held()
        bench.on_all(functions.pause_tasks)
        bench.check(held(task="paused"))
        bench.on_all(functions.resume_tasks)
        bench.gate.set()
        bench.wait_until_settled()
    bench.run()
    bench.check_end(Expected())


@kind("paused while it runs, and it fails", wait(then=refuse))
def _(bench: Bench) -> None:
    with bench.working():
        bench.wait_until_held()
        bench.on_all(functions.pause_tasks)
        bench.gate.set()
        bench.wait_until_settled()
    bench.run()
    bench.on_all(functions.resume_tasks, changed=False)
    bench.check_end(failed("card_unknown"))


@kind("paused while it runs, its executor lost, and resumed", wait())
def _(bench: Bench) -> None:
    with bench.working(heartbeat_seconds=3600):
        bench.wait_until_held()
        bench.on_all(functions.pause_tasks)
        bench.lose_executors()
        bench.run()
        bench.check(queued(task="paused", runs=1, losses=1))
        bench.on_all(functions.resume_tasks)
        bench.run()
        bench.gate.set()
        bench.wait_until_left()
    bench.check_end(Expected(runs=2, losses=1))


@kind("paused while it runs, its executor told to stop, and resumed", sleep(1))
def _(bench: Bench) -> None:
    with bench.working(grace_seconds=0.1):
        bench.wait_until_held()
        bench.on_all(functions.pause_tasks)
    bench.run()
    bench.check(queued(task="paused", runs=1))
    bench.on_all(functions.resume_tasks)
    bench.run()
    bench.check_end(Expected(runs=2))


@kind("paused while it waits for its next attempt, and resumed", fail(1), **MINUTE)
def _(bench: Bench) -> None:
    bench.run()
    bench.on_all(functions.pause_tasks)
    bench.wait_and_run(61)
    bench.check(waits(task="paused"))
    bench.on_all(functions.resume_tasks)
    bench.run()
    bench.check_end(Expected(runs=2, attempts=2))


@kind("paused while it runs, and cancelled", sleep(1))
def _(bench: Bench) -> None:
    with bench.working():
        bench.wait_until_held()
        bench.on_all(functions.pause_tasks)
        bench.on_all(functions.cancel_tasks)
        bench.wait_until_left()
    bench.run()
    bench.check_end(cancelled())


def test_every_place_of_every_shape(misbehaviour: Kind, tell: Callable[[Kind], None]) -> None:
    tell(misbehaviour)
