"""How an exception becomes the error of a step: what is stored, and whether another attempt makes sense."""

from __future__ import annotations

import math
from typing import TypedDict

from tasker.errors import (
    ContextInvalid,
    PayloadTooLarge,
    PermanentError,
    RetryableError,
    StepError,
    ValueNotStorable,
)

MAX_MESSAGE_LENGTH = 4_000
MAX_TYPE_LENGTH = 200
TOO_LARGE = "result_too_large"
"""Type of the error of a step whose result is above ``system.max_result_bytes``."""


class Failure(TypedDict):
    """The ``error`` of an outcome, as ``complete_steps`` and ``orchestration_step_results`` take it."""

    message: str
    type: str
    retryable: bool
    retry_after_seconds: float | None


def classify(error: BaseException) -> Failure:
    """What to report about ``error``, raised by a handler or by what prepares and checks its call.

    ``PermanentError``, values that cannot be stored and contexts that do not fit are final; ``RetryableError`` and
    every other exception allow another attempt, since a bug fixed or a worker redeployed may cure it.
    """
    retry_after: float | None = None
    retryable = True
    kind = type(error).__name__
    match error:
        case PermanentError():
            retryable = False
        case RetryableError():
            retry_after = _delay(error.retry_after_seconds)
        case ValueNotStorable():
            retryable, kind = False, "result_not_storable"
        case PayloadTooLarge():
            retryable, kind = False, TOO_LARGE
        case ContextInvalid():
            retryable, kind = False, "invalid_context"
        case _:
            pass
    if isinstance(error, StepError) and error.code:
        kind = error.code
    return Failure(
        message=_clean(_text(error), MAX_MESSAGE_LENGTH),
        type=_clean(kind, MAX_TYPE_LENGTH),
        retryable=retryable,
        retry_after_seconds=retry_after,
    )


def _text(error: BaseException) -> str:
    """The error's own words; its class where it has none, or where saying them fails in turn."""
    try:
        text = str(error)
    except Exception as failure:
        text = f"{type(error).__name__}, whose message cannot be read ({type(failure).__name__})"
    return text or type(error).__name__


def _delay(seconds: float | None) -> float | None:
    """A delay as a handler gave it, made safe to store; the SQL core clamps it to its longest."""
    if seconds is None or math.isnan(seconds):
        return None
    return min(max(0.0, float(seconds)), 1e9)


def _clean(text: str, limit: int) -> str:
    """``text`` as any ``jsonb`` can hold it: no NUL, no lone surrogates, bounded."""
    stored = text.replace("\0", "�").encode("utf-8", "replace").decode("utf-8")
    return stored if len(stored) <= limit else stored[: limit - 1] + "…"
