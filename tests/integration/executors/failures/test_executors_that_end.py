"""Executors that are lost, or told to stop, while a step runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.executors.failures.kinds import Kind, Kinds, failed, queued, sleep, wait
from tests.integration.executors.matrix import Bench, Expected
from tests.waiting import wait_until

pytestmark = pytest.mark.orchestration

kind = Kinds()


@kind("executor lost while it runs; it wakes up later", wait())
def _(bench: Bench) -> None:
    with bench.working(heartbeat_seconds=3600):
        bench.wait_until_held()
        bench.lose_executors()
        # Whoever is faster: this one, or the lost one, which asks for work and so learns of it.
        bench.run()
        bench.wait_until_settled()
        bench.run()
        bench.check(Expected(runs=2, losses=1))
        bench.gate.set()
        bench.wait_until_left()
    bench.check_end(Expected(runs=2, losses=1))


@kind("executor lost again and again", wait(2))
def _(bench: Bench) -> None:
    with bench.working(heartbeat_seconds=3600):
        bench.wait_until_held()
        bench.lose_executors()
        with bench.working(heartbeat_seconds=3600):
            wait_until(
                lambda: sum(bench.runs[case.task, case.place] for case in bench.cases) == 2 * len(bench.cases),
                "every step to run again",
            )
            bench.lose_executors(max_losses=2)
            bench.run()
            bench.check(failed("poison", runs=2, losses=2))
            bench.gate.set()
            bench.wait_until_left()
    bench.check_end(failed("poison", runs=2, losses=2))


@kind("executor lost with a step that may not run twice", wait(), retryable=False)
def _(bench: Bench) -> None:
    with bench.working(heartbeat_seconds=3600):
        bench.wait_until_held()
        bench.lose_executors()
        bench.gate.set()
        bench.wait_until_left()
    bench.run()
    bench.check_end(failed("outcome_unknown", losses=1))


@kind("executor told to stop", sleep(1))
def _(bench: Bench) -> None:
    with bench.working(grace_seconds=0.1):
        bench.wait_until_held()
    bench.check(queued(runs=1))
    bench.run()
    bench.check_end(Expected(runs=2))


@kind("executor told to stop, and the step is done in time", wait())
def _(bench: Bench) -> None:
    with bench.working():
        bench.wait_until_held()
        bench.gate.set()
    bench.run()
    bench.check_end(Expected())


@kind("executor told to stop with a step that may not run twice", sleep(1), retryable=False)
def _(bench: Bench) -> None:
    with bench.working(grace_seconds=0.1):
        bench.wait_until_held()
    bench.run()
    bench.check_end(failed("outcome_unknown"))


def test_every_place_of_every_shape(misbehaviour: Kind, tell: Callable[[Kind], None]) -> None:
    tell(misbehaviour)
