"""The message that tells how a delegated step's Celery task ended."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Reject

from tasker.errors import PermanentError, RetryableError
from tasker.executors.delegation import DelegatedStep
from tasker.hosting.delegation import (
    CelerySteps,
    StepApp,
    exception_message,
    failure_message,
    success_message,
    unexplained_message,
)
from tasker.workflows.celery_calls import CeleryCall, CeleryOptions

STEP: dict[str, Any] = {
    "task_uuid": "0192d3a0-0000-7000-8000-000000000001",
    "step_uuid": "0192d3a0-0000-7000-8000-000000000002",
    "position": 1,
    "map_index": 0,
    "fence": 3,
    "executor": "0192d3a0-0000-7000-8000-000000000003",
}


def test_a_result_is_the_steps_result() -> None:
    message = success_message(STEP, {"receipt": 1}, max_bytes=1000)
    assert message == {**STEP, "status": "complete", "results": {"receipt": 1}}


@pytest.mark.parametrize("result", [float("nan"), {"text": "a\0b"}, "x" * 2000])
def test_a_result_that_cannot_be_stored_is_a_permanent_error(result: object) -> None:
    message = success_message(STEP, result, max_bytes=1000)
    assert message["status"] == "error"
    assert (message["error"]["type"], message["error"]["retryable"]) == ("result_not_storable", False)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ValueError("no such card"), {"message": "no such card", "type": "ValueError", "retryable": True}),
        (KeyError(), {"message": "KeyError", "type": "KeyError", "retryable": True}),
        (PermanentError("stolen"), {"message": "stolen", "type": "PermanentError", "retryable": False}),
        (
            PermanentError("stolen", code="stolen_card"),
            {"message": "stolen", "type": "stolen_card", "retryable": False},
        ),
        (
            RetryableError("busy", retry_after_seconds=7),
            {"message": "busy", "type": "RetryableError", "retryable": True, "retry_after_seconds": 7},
        ),
    ],
)
def test_what_a_task_raised_is_the_steps_error(raised: Exception, expected: dict[str, Any]) -> None:
    assert exception_message(STEP, raised) == {**STEP, "status": "error", "error": expected}


class HttpError(Exception):
    code = 404


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_whatever_a_task_raised_can_be_stored() -> None:
    for raised, expected in (
        (HttpError("not found"), ("not found", "HttpError")),
        (ValueError("a\0b\ud800"), ("a\ufffdb?", "ValueError")),
        (Odd(), ("Odd, whose message cannot be read (RuntimeError)", "Odd")),
    ):
        error = exception_message(STEP, raised)["error"]
        assert (error["message"], error["type"], error["retryable"]) == (*expected, True)
    assert len(exception_message(STEP, ValueError("x" * 100_000))["error"]["message"]) == 4000


def test_a_class_of_an_app_that_does_not_know_tasker_means_what_its_name_says() -> None:
    foreign = type("PermanentError", (Exception,), {})
    assert exception_message(STEP, foreign("stolen"))["error"]["retryable"] is False
    assert exception_message(STEP, Reject("no", requeue=False))["error"]["retryable"] is True


def test_a_failure_nobody_can_explain_is_retryable() -> None:
    error = failure_message(STEP, "failed", "celery_task_failed")["error"]
    assert error == {"message": "failed", "type": "celery_task_failed", "retryable": True}
    assert unexplained_message(STEP)["error"]["type"] == "celery_task_failed"


# -- sending ---------------------------------------------------------------------------------------------------------


def delegated(
    task: str = "shop.charge", kwargs: Any = None, timeout: float | None = 60, **options: Any
) -> DelegatedStep:
    return DelegatedStep(
        celery_task=task,
        celery_id=f"{STEP['step_uuid']}:3",
        call=CeleryCall([7], kwargs or {}, CeleryOptions(**options)),  # type: ignore[typeddict-item]
        timeout_seconds=timeout,
        **STEP,
    )


def sent(*steps: DelegatedStep, **app: Any) -> list[Any]:
    """The messages of ``steps``, from a broker in this process's memory."""
    celery = Celery("tasker", broker="memory://", set_as_current=False)
    celery.conf.task_routes = {"shop.*": {"queue": "routed"}}
    sender = CelerySteps(lambda: StepApp(celery, **app))
    messages = []
    with celery.connection_for_write() as connection:
        for step in steps:
            sender.send(step)
            queue = step.call.options.get("queue", "routed")
            message = connection.default_channel.basic_get(queue, no_ack=True)
            assert message is not None
            messages.append(message)
    celery.close()
    return messages


def test_a_step_is_sent_as_one_task_whose_callbacks_bring_the_outcome_back() -> None:
    (message,) = sent(delegated(), callback_queue="outcomes")
    (args, kwargs, embedded) = message.decode()
    assert (message.headers["task"], message.headers["id"]) == ("shop.charge", f"{STEP['step_uuid']}:3")
    assert (args, kwargs) == ([7], {})
    # The whole workflow is one family, for Flower.
    assert message.headers["root_id"] == message.headers["parent_id"] == STEP["task_uuid"]
    for kind, name in (("callbacks", "tasker.step_succeeded"), ("errbacks", "tasker.step_failed")):
        (callback,) = embedded[kind]
        assert (callback["task"], callback["kwargs"]) == (name, {"step": STEP})
        # No route and no default of the app that sends it may count.
        assert callback["options"] == {
            "queue": "outcomes",
            "exchange": "",
            "routing_key": "outcomes",
            "serializer": "json",
        }


def test_options_reach_the_message() -> None:
    step = delegated(queue="cards", priority=4, countdown=5, time_limit=9, soft_time_limit=8, ignore_result=True)
    (message,) = sent(step)
    assert message.headers["timelimit"] == [9, 8]
    assert message.headers["eta"] is not None
    assert message.headers["ignore_result"] is True
    assert message.properties["priority"] == 4


def test_nothing_is_begun_that_nobody_waits_for_any_more() -> None:
    def lifetime(message: Any) -> float:
        return float(message.properties["expiration"]) / 1000

    messages = sent(delegated(), delegated(expires=10), delegated(expires=90), delegated(timeout=None, expires=90))
    assert [lifetime(message) for message in messages] == [60, 10, 60, 90]
    (endless,) = sent(delegated(timeout=None))
    assert endless.headers["expires"] is None


@pytest.mark.parametrize(
    ("setting", "option", "stamped"),
    [(False, None, False), (True, None, True), (True, False, False), (False, True, True)],
)
def test_a_task_whose_process_may_be_ended_says_so_itself(setting: bool, option: bool | None, stamped: bool) -> None:
    step = delegated() if option is None else delegated(terminate=option)
    (message,) = sent(step, terminate=setting)
    assert (message.headers["stamps"] == {"tasker_step": step.celery_id}) is stamped


def test_a_sequence_goes_where_its_task_goes() -> None:
    (message,) = sent(delegated("celery.map", {"task": {"task": "shop.charge"}, "it": [1]}))
    assert message.headers["task"] == "celery.map"


def test_without_a_result_backend_nobody_knows_why_a_task_failed() -> None:
    celery = Celery("tasker", broker="memory://", set_as_current=False)
    assert CelerySteps(lambda: StepApp(celery)).error_of("1:1") is None


def test_a_result_backend_that_cannot_say_why_does_not_hide_the_failure() -> None:
    celery = Celery("tasker", broker="memory://", backend="no+such://backend", set_as_current=False)
    assert CelerySteps(lambda: StepApp(celery)).error_of("1:1") is None
