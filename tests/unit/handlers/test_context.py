from __future__ import annotations

import datetime as dt
import logging

import pytest

from tasker.errors import PermanentError, StepCancelled
from tasker.handlers.context import StepContext
from tasker.handlers.environment import has_references, substitute


def test_a_context_needs_nothing_but_the_tasks_input() -> None:
    ctx = StepContext(context={"order_id": 1})
    assert (ctx.results, ctx.settings, ctx.attempt, ctx.deadline) == ({}, {}, 1, None)
    assert ctx.remaining_seconds() is None
    ctx.check_cancelled()


def test_check_cancelled_raises_with_the_reason() -> None:
    reasons = iter([None, "cancelled"])
    ctx = StepContext(context={}, step_name="charge", cancellation=lambda: next(reasons))
    ctx.check_cancelled()
    with pytest.raises(StepCancelled, match="step charge shall stop: cancelled") as caught:
        ctx.check_cancelled()
    assert caught.value.code == "cancelled"


def test_the_remaining_time_is_never_negative() -> None:
    now = dt.datetime.now(dt.UTC)
    past = StepContext(context={}, deadline=now - dt.timedelta(seconds=5))
    future = StepContext(context={}, deadline=now + dt.timedelta(hours=1))
    assert past.remaining_seconds() == 0
    assert 3590 < (future.remaining_seconds() or 0) <= 3600


def test_the_logger_says_which_step_of_which_task_speaks(caplog: pytest.LogCaptureFixture) -> None:
    ctx = StepContext(
        context={}, namespace="shop", task_name="orders", step_name="charge", task_uuid="t-1", correlation_id="c-1"
    )
    with caplog.at_level(logging.INFO):
        ctx.logger.info("charged")
    (record,) = caplog.records
    assert record.name == "tasker.steps.shop.orders.charge"
    assert (record.task_uuid, record.correlation_id) == ("t-1", "c-1")  # type: ignore[attr-defined]


VARIABLES = {"HOST": "pay.example.com", "EMPTY": "", "PORT": "8443"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${HOST}", "pay.example.com"),
        ("https://${HOST}:${PORT}/v1", "https://pay.example.com:8443/v1"),
        ("${MISSING:-fallback}", "fallback"),
        ("${MISSING:-}", ""),
        ("${HOST:-fallback}", "pay.example.com"),
        ("${EMPTY}", ""),
        ("${EMPTY:-fallback}", "fallback"),
        ("${MISSING:-http://localhost:80/}", "http://localhost:80/"),
        ("$HOST and {HOST}", "$HOST and {HOST}"),
        ("${not a name}", "${not a name}"),
    ],
)
def test_references_are_replaced_by_the_environment(text: str, expected: str) -> None:
    assert substitute({"a": {"b": [text, 1]}}, VARIABLES) == {"a": {"b": [expected, 1]}}


def test_what_a_variable_holds_is_not_looked_at_again() -> None:
    assert substitute({"a": "${ONE}"}, {"ONE": "${TWO}", "TWO": "2"}) == {"a": "${TWO}"}


def test_an_unset_variable_is_a_permanent_error_that_names_the_setting() -> None:
    with pytest.raises(PermanentError) as caught:
        substitute({"gateway": {"keys": ["${API_KEY}"]}}, VARIABLES)
    assert str(caught.value) == (
        "handler.initialization.gateway.keys[0] needs the environment variable API_KEY, which is not set in this "
        "worker; set it, or give a default: ${API_KEY:-value}"
    )
    assert caught.value.code == "environment_variable_unset"


def test_settings_without_references_are_recognised() -> None:
    assert has_references({"a": [{"b": "${HOST}"}]})
    assert not has_references({"a": [{"b": "$HOST", "c": 1, "d": None}]})


def test_circuits_let_everything_through_without_an_executor() -> None:
    ctx = StepContext(context={}, system_dependency="bank")
    assert ctx.circuit().call(int) == 0
    with ctx.circuit("mail").guard():
        pass
    with pytest.raises(PermanentError, match="system_dependency"):
        StepContext(context={}).circuit()
