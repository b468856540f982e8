"""Handlers that raise, answer what cannot be stored, or take too long."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tasker.handlers.failures import TOO_LARGE
from tasker.handlers.results import MISMATCH
from tests.integration.executors.failures.kinds import (
    MINUTE,
    Kind,
    Kinds,
    answer,
    cancel_itself,
    divide_by_zero,
    fail,
    failed,
    leave,
    refuse,
    sleep,
    spin,
    waits,
)
from tests.integration.executors.matrix import Bench, Expected

pytestmark = pytest.mark.orchestration

kind = Kinds()


@kind("permanent error", refuse)
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed("card_unknown"))


@kind("retryable error, then success", fail(1), **MINUTE)
def _(bench: Bench) -> None:
    bench.run()
    bench.check(waits())
    bench.wait_and_run(61)
    bench.check_end(Expected(runs=2, attempts=2))


@kind("retryable errors until the attempts are spent", fail(9), **MINUTE)
def _(bench: Bench) -> None:
    bench.run()
    bench.wait_and_run(61)
    bench.check(waits(runs=2, attempts=2))
    bench.wait_and_run(61)
    bench.check_end(failed("later", runs=3, attempts=3))


@kind("retryable error of a step that may not run twice", fail(9), retryable=False)
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed("later"))


@kind("unexpected exception", divide_by_zero)
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed("ZeroDivisionError", runs=3, attempts=3))


@kind("the handler leaves the process", leave, max_attempts=1)
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed("SystemExit"))


@kind("the handler cancels itself", cancel_itself, max_attempts=1)
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed("CancelledError"))


@kind("no such handler", handler={"callable": "nowhere", "method": None, "initialization": {}}, max_attempts=1)
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed("HandlerNotFound", runs=0))


@kind("result that JSON cannot carry", answer({"value": float("nan")}))
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed("result_not_storable"))


@kind("result that is too large", answer({"text": "x" * 1_100_000}))
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed(TOO_LARGE))


@kind("result that does not fit its schema", answer({}), result_schema={"type": "object", "required": ["seen"]})
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed(MISMATCH))


@kind("timeout of a plain handler", spin, timeout_seconds=0.05, max_attempts=1)
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed("timeout"))


@kind("timeout of an async handler", sleep(9), timeout_seconds=0.05, max_attempts=2)
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed("timeout", runs=2, attempts=2))


@kind("timeout, then success", sleep(1), timeout_seconds=1, **MINUTE)
def _(bench: Bench) -> None:
    bench.run()
    bench.check(waits(error="timeout"))
    bench.wait_and_run(61)
    bench.check_end(Expected(runs=2, attempts=2))


def test_every_place_of_every_shape(misbehaviour: Kind, tell: Callable[[Kind], None]) -> None:
    tell(misbehaviour)
