from __future__ import annotations

import pytest

from tasker.encoding import encode
from tasker.errors import (
    ContextInvalid,
    HandlerNotFound,
    PayloadTooLarge,
    PermanentError,
    RetryableError,
    StepCancelled,
    ValueNotStorable,
)
from tasker.handlers.failures import Failure, classify


class CustomerError(Exception):
    pass


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermanentError("no such card", code="card_unknown"), ("no such card", "card_unknown", False, None)),
        (PermanentError("no such card"), ("no such card", "PermanentError", False, None)),
        (RetryableError("busy", retry_after_seconds=30), ("busy", "RetryableError", True, 30.0)),
        (RetryableError("busy", code="busy"), ("busy", "busy", True, None)),
        (RetryableError("busy", retry_after_seconds=-1), ("busy", "RetryableError", True, 0.0)),
        (RetryableError("busy", retry_after_seconds=float("nan")), ("busy", "RetryableError", True, None)),
        (RetryableError("busy", retry_after_seconds=float("inf")), ("busy", "RetryableError", True, 1e9)),
        (CustomerError("who?"), ("who?", "CustomerError", True, None)),
        (CustomerError(), ("CustomerError", "CustomerError", True, None)),
        (KeyError("order_id"), ("'order_id'", "KeyError", True, None)),
        (TimeoutError(), ("TimeoutError", "TimeoutError", True, None)),
        (StepCancelled("stop", code="cancelled"), ("stop", "cancelled", True, None)),
        (ValueNotStorable("NaN"), ("NaN", "result_not_storable", False, None)),
        (PayloadTooLarge("2 MiB"), ("2 MiB", "result_too_large", False, None)),
        (ContextInvalid("bad"), ("bad", "invalid_context", False, None)),
        # A worker that is redeployed may have it next time.
        (HandlerNotFound("gone", hint="deploy it"), ("gone (deploy it)", "HandlerNotFound", True, None)),
    ],
)
def test_an_exception_becomes_the_error_that_is_stored(
    error: Exception, expected: tuple[str, str, bool, float | None]
) -> None:
    message, kind, retryable, retry_after = expected
    assert classify(error) == Failure(message=message, type=kind, retryable=retryable, retry_after_seconds=retry_after)


def test_any_message_can_be_stored() -> None:
    failure = classify(CustomerError("a\0b \ud800 " + "x" * 10_000))
    encode(failure)
    assert "\0" not in failure["message"]
    assert len(failure["message"]) == 4_000


def test_an_exception_that_cannot_say_what_it_is_does_not_disturb() -> None:
    assert classify(Unspeakable())["message"] == "Unspeakable, whose message cannot be read (RuntimeError)"
