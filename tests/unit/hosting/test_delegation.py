"""The message that tells how a delegated step's Celery task ended."""

from __future__ import annotations

from typing import Any

import pytest

from tasker.errors import PermanentError, RetryableError
from tasker.hosting.delegation import exception_message, failure_message, success_message

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


def test_a_failure_nobody_can_explain_is_retryable() -> None:
    error = failure_message(STEP, "failed", "celery_task_failed")["error"]
    assert error == {"message": "failed", "type": "celery_task_failed", "retryable": True}
