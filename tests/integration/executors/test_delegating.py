"""Steps that are Celery tasks: recorded first, then sent; what comes back is recorded by message."""

from __future__ import annotations

from typing import Any

import pytest

from tasker.workflows.celery_calls import CeleryCall
from tests.integration.executors.engine import Engine

pytestmark = pytest.mark.orchestration


def _workflow(engine: Engine, **step: Any) -> None:
    handler = {
        "callable": "celery:shop.charge",
        "method": None,
        "initialization": {
            "args": [{"$result": "first", "pointer": "/amount"}],
            "kwargs": {"number": {"$context": "/number"}},
            "queue": "payments",
        },
    }
    engine.workflow(
        {"name": "first", "handler": lambda ctx: {"amount": 7}},
        {"name": "charge", "handler": handler, "delegated": True, "depends_on": ["first"], **step},
    )


def test_a_delegated_step_is_recorded_before_it_is_sent_and_leaves_no_receipt(engine: Engine) -> None:
    sent: list[Any] = []
    recorded: list[Any] = []

    def send(step: Any) -> None:
        with engine.database.connect() as connection:
            recorded.append(
                connection.execute(
                    "SELECT count(*) FROM tasker.step_timers WHERE kind = 'deadline' AND task_uuid = %s",
                    (step.task_uuid,),
                ).fetchone()
            )
        sent.append(step)

    _workflow(engine)
    (task,) = engine.create()
    executor = engine.executor(send=send)
    engine.run_until_idle(executor)

    (step,) = sent
    row = engine.step(task, 1)
    assert step.celery_task == "shop.charge"
    assert step.call == CeleryCall([7], {"number": 0}, {"queue": "payments"})
    assert step.celery_id == f"{row['step_uuid']}:{row['fence']}"
    assert (step.task_uuid, step.position, step.fence) == (task, 1, row["fence"])
    assert recorded == [(1,)]
    assert row["state"] == "in_progress"
    assert engine.receipts() == 0


def test_a_send_that_fails_is_an_error_of_the_step(engine: Engine) -> None:
    sends = 0

    def send(step: Any) -> None:
        nonlocal sends
        sends += 1
        raise ConnectionError("no broker")

    _workflow(engine, max_attempts=2)
    (task,) = engine.create()
    engine.run_until_idle(engine.executor(send=send))

    step = engine.step(task, 1)
    assert sends == 2
    assert (step["state"], step["error"]["type"]) == ("error", "ConnectionError")
    assert engine.value("SELECT count(*) FROM tasker.step_timers") == 0


def test_without_celery_a_delegated_step_fails_and_may_be_retried_elsewhere(engine: Engine) -> None:
    _workflow(engine, max_attempts=2, backoff_base_ms=60_000, backoff_max_ms=60_000)
    (task,) = engine.create()
    engine.run_until_idle()

    step = engine.step(task, 1)
    assert (step["state"], step["error"]["type"]) == ("waiting_for_retry", "celery_unavailable")


def test_a_reference_that_leads_nowhere_is_a_permanent_error(engine: Engine) -> None:
    handler = {
        "callable": "celery:shop.charge",
        "method": None,
        "initialization": {"args": [{"$context": "/nothing/here"}]},
    }
    engine.workflow({"name": "charge", "handler": handler, "delegated": True})
    (task,) = engine.create()
    engine.run_until_idle(engine.executor(send=lambda step: None))

    step = engine.step(task)
    assert (step["state"], step["error"]["type"]) == ("error", "bad_reference")
