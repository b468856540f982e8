"""Steps that are Celery tasks, which answer late, badly or never."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tasker.database import functions
from tests.integration.executors.failures.kinds import Kind, Kinds, cancelled, failed, held, paused
from tests.integration.executors.matrix import BY_HAND, Bench, Expected
from tests.waiting import wait_until

pytestmark = pytest.mark.orchestration

kind = Kinds()

DELEGATED: Mapping[str, Any] = {
    "handler": {"callable": "celery:matrix.act", "method": None, "initialization": {}},
    "delegated": True,
    "timeout_seconds": 60,
}


def celery_ids(bench: Bench) -> list[str]:
    return sorted(step.celery_id for step in bench.sent)


@kind("Celery task that never answers", **DELEGATED, max_attempts=1)
def _(bench: Bench) -> None:
    bench.run()
    bench.check(held())
    bench.wait_and_run(61)
    bench.check(failed("timeout"))
    assert sorted(bench.revoked) == celery_ids(bench)
    for step in bench.sent:
        bench.answer(step, status="complete", results={"late": True})
    bench.run()
    bench.check_end(failed("timeout"))


@kind("Celery task that answers the second time", **DELEGATED, max_attempts=2)
def _(bench: Bench) -> None:
    bench.run()
    first = list(bench.sent)
    bench.wait_and_run(61)
    bench.check(held(runs=2, attempts=2, error="timeout"))
    for step in first:
        bench.answer(step, status="complete", results={"late": True})
    bench.run()
    bench.check(held(runs=2, attempts=2, error="timeout"))
    for step in bench.sent[len(first) :]:
        bench.answer(step, status="complete", results=BY_HAND)
    bench.run()
    bench.check_end(Expected(runs=2, attempts=2, given=BY_HAND))


@kind("Celery task that answers once the same executor has sent it again", **DELEGATED, max_attempts=2)
def _(bench: Bench) -> None:
    number = len(bench.cases)
    with bench.working():
        wait_until(lambda: len(bench.sent) == number, "every task to be sent")
        bench.clock.advance(seconds=61)
        bench.run_orchestration()
        wait_until(lambda: len(bench.sent) == 2 * number, "every task to be sent again")
    assert {step.executor for step in bench.sent[:number]} == {step.executor for step in bench.sent[number:]}
    for step in bench.sent[:number]:
        bench.answer(step, status="complete", results={"late": True})
    bench.run()
    bench.check(held(runs=2, attempts=2, error="timeout"))
    for step in bench.sent[number:]:
        bench.answer(step, status="complete", results=BY_HAND)
    bench.run()
    bench.check_end(Expected(runs=2, attempts=2, given=BY_HAND))


@kind("Celery task that fails for good", **DELEGATED)
def _(bench: Bench) -> None:
    bench.run()
    for step in bench.sent:
        bench.answer(step, status="error", error={"message": "no", "type": "card_unknown", "retryable": False})
    bench.run()
    bench.check_end(failed("card_unknown"))


@kind("Celery task cancelled", **DELEGATED)
def _(bench: Bench) -> None:
    bench.run()
    bench.on_all(functions.cancel_tasks)
    bench.run()
    assert sorted(bench.revoked) == celery_ids(bench)
    for step in bench.sent:
        bench.answer(step, status="complete", results={"late": True})
    bench.run()
    bench.check_end(cancelled())


@kind("Celery task paused, and resumed when it has answered", **DELEGATED)
def _(bench: Bench) -> None:
    bench.run()
    bench.on_all(functions.pause_tasks)
    for step in bench.sent:
        bench.answer(step, status="complete", results=BY_HAND)
    bench.run()
    bench.check(
        paused(
            Expected(task="paused", below="pending", below_ready="enqueued", finishes=(), given=BY_HAND),
            last=Expected(given=BY_HAND),
        )
    )
    bench.on_all(functions.resume_tasks, changed=None)
    bench.run()
    bench.check_end(Expected(given=BY_HAND))


def test_every_place_of_every_shape(misbehaviour: Kind, tell: Callable[[Kind], None]) -> None:
    tell(misbehaviour)
