"""Operators who retry, reset and resolve."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tasker.database import functions
from tests.integration.executors.failures.kinds import (
    MINUTE,
    Kind,
    Kinds,
    by_hand,
    cancelled,
    fail,
    failed,
    mended,
    refuse,
    sleep,
    wait,
)
from tests.integration.executors.matrix import APART, BY_HAND, Bench, Expected

pytestmark = pytest.mark.orchestration

kind = Kinds()


def retry_all(bench: Bench) -> None:
    for case in bench.cases:
        answer = bench.call(functions.retry_task({"task_uuid": case.task, "by": "operator", "reason": "test"}))
        assert (answer["state"], answer["retried"]) == ("in_progress", 1)


@kind("task retried by an operator once the attempts are spent", fail(3))
def _(bench: Bench) -> None:
    bench.run()
    bench.check(failed("later", runs=3, attempts=3))
    retry_all(bench)
    bench.run()
    bench.check_end(mended(runs=4, dead_letters=(("later", "retried"),)))


@kind("task retried by an operator, and it fails again", fail(9), max_attempts=1)
def _(bench: Bench) -> None:
    bench.run()
    retry_all(bench)
    bench.run()
    letters = (("later", "retried"), ("later", None))
    bench.check_end(failed("later", runs=2, dead_letters=letters, finishes=("error", "error")))


@kind("step reset by an operator once it has failed", fail(1), max_attempts=1)
def _(bench: Bench) -> None:
    bench.run()
    bench.on_each(functions.reset_step)
    bench.run()
    bench.check_end(mended(runs=2, dead_letters=(("later", "reset"),)))


@kind("step reset by an operator while it waits for its next attempt", fail(1), **MINUTE)
def _(bench: Bench) -> None:
    bench.run()
    bench.on_each(functions.reset_step)
    bench.run()
    bench.check_end(Expected(runs=2))


@kind("step reset by an operator while it runs", wait())
def _(bench: Bench) -> None:
    with bench.working(heartbeat_seconds=3600):
        bench.wait_until_held()
        bench.on_each(functions.reset_step)
        bench.run()
        bench.gate.set()
        bench.wait_until_left()
    bench.check_end(Expected(runs=2))


@kind("step resolved by an operator before anything ran")
def _(bench: Bench) -> None:
    bench.on_each(functions.resolve_step, results=BY_HAND)
    bench.run()
    bench.check_end(by_hand(runs=0, attempts=0))


@kind("step resolved by an operator before it runs", namespace=APART)
def _(bench: Bench) -> None:
    bench.run(apart=False)
    bench.on_each(functions.resolve_step, results=BY_HAND)
    bench.run()
    bench.check_end(by_hand(runs=0, attempts=0))


@kind("step resolved by an operator while it runs", wait())
def _(bench: Bench) -> None:
    with bench.working(heartbeat_seconds=3600):
        bench.wait_until_held()
        bench.on_each(functions.resolve_step, results=BY_HAND)
        bench.gate.set()
        bench.wait_until_left()
    bench.run()
    bench.check_end(by_hand())


@kind("step resolved by an operator while it waits for its next attempt", fail(1), **MINUTE)
def _(bench: Bench) -> None:
    bench.run()
    bench.on_each(functions.resolve_step, results=BY_HAND)
    bench.wait_and_run(61)
    bench.check_end(by_hand(error="later"))


@kind("step resolved by an operator once it has failed", refuse)
def _(bench: Bench) -> None:
    bench.run()
    bench.on_each(functions.resolve_step, results=BY_HAND)
    bench.run()
    letters = (("card_unknown", "resolved"),)
    bench.check_end(by_hand(error="card_unknown", dead_letters=letters, finishes=("error", "complete")))


@kind("task resolved by an operator once a step has failed", refuse)
def _(bench: Bench) -> None:
    bench.run()
    for case in bench.cases:
        bench.call(functions.resolve_task({"task_uuid": case.task, "by": "operator", "reason": "test"}))
    bench.run()
    letters = (("card_unknown", "resolved"),)
    finishes = ("error", "resolved_manually")
    bench.check_end(
        failed("card_unknown", task="resolved_manually", below="cancelled", dead_letters=letters, finishes=finishes)
    )


@kind("task resolved by an operator while the step runs", sleep(1))
def _(bench: Bench) -> None:
    with bench.working():
        bench.wait_until_held()
        for case in bench.cases:
            bench.call(functions.resolve_task({"task_uuid": case.task, "by": "operator", "reason": "test"}))
        bench.wait_until_left()
    bench.run()
    bench.check_end(cancelled(task="resolved_manually", finishes=("resolved_manually",)))


def test_every_place_of_every_shape(misbehaviour: Kind, tell: Callable[[Kind], None]) -> None:
    tell(misbehaviour)
