"""Running to exhaustion in the test's own process, and the fixtures around it."""

from __future__ import annotations

import datetime as dt
from typing import Any

import psycopg
import pytest

from tasker.client.tasker import Tasker
from tasker.core import OrchestrationCore
from tasker.errors import RetryableError
from tasker.handlers.context import StepContext
from tasker.testing import Clock, broken_rules, run_until_idle
from tasker.workflows.declaration import workflow
from tasker.workflows.retry import Retry

calls: list[str] = []

orders = workflow("testing_kit", "order", version="1.0.0")
reports = workflow("testing_kit_reports", "report", version="1.0.0")


@orders.step
def reserve(ctx: StepContext) -> dict[str, Any]:
    calls.append("reserve")
    return {"reserved": ctx.context["quantity"]}


@orders.step(retry=Retry(max_attempts=2, backoff="fixed", base_seconds=60))
def ship(ctx: StepContext, reserve: dict[str, Any]) -> dict[str, Any]:
    calls.append("ship")
    if ctx.attempt == 1:
        raise RetryableError("no van today")
    return {"shipped": reserve["reserved"]}


@reports.step
def write(ctx: StepContext) -> None:
    calls.append("write")


@pytest.fixture(autouse=True)
def known(tasker_core: OrchestrationCore) -> None:
    calls.clear()
    tasker_core.templates.register(orders)


def test_all_that_can_run_has_run_and_what_is_due_later_runs_once_the_clock_has_moved(
    tasker_core: OrchestrationCore, tasker_client: Tasker, tasker_clock: Clock
) -> None:
    handle = tasker_client.create("testing_kit", "order", {"quantity": 3})
    taken = run_until_idle(tasker_core)
    assert taken["step_executor"] == 2
    assert calls == ["reserve", "ship"]
    assert handle.state == "in_progress"

    run_until_idle(tasker_core)
    assert calls == ["reserve", "ship"]

    tasker_clock.advance(seconds=90)
    run_until_idle(tasker_core)
    assert calls == ["reserve", "ship", "ship"]
    assert handle.state == "complete"
    assert handle.results["ship"] == {"shipped": 3}


def test_a_task_for_later_is_admitted_when_its_time_has_come(
    tasker_core: OrchestrationCore, tasker_client: Tasker, tasker_clock: Clock
) -> None:
    handle = tasker_client.create(
        "testing_kit", "order", {"quantity": 1}, run_at=dt.datetime.now(dt.UTC) + dt.timedelta(days=30)
    )
    run_until_idle(tasker_core)
    assert (handle.state, calls) == ("pending", [])
    tasker_clock.advance(dt.timedelta(days=30), seconds=1)
    run_until_idle(tasker_core)
    assert calls == ["reserve", "ship"]


def test_namespaces_that_come_up_while_it_runs_are_served_too(
    tasker_core: OrchestrationCore, tasker_client: Tasker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_a_report(ctx: StepContext) -> dict[str, Any]:
        tasker_core.templates.register(reports)
        tasker_client.create("testing_kit_reports", "report", {})
        return {}

    starter = workflow("testing_kit", "starter", version="1.0.0")
    starter.step(start_a_report)
    tasker_core.templates.register(starter)
    tasker_client.create("testing_kit", "starter", {})
    run_until_idle(tasker_core)
    assert calls == ["write"]


def test_work_that_does_not_end_is_an_error(tasker_core: OrchestrationCore, tasker_client: Tasker) -> None:
    tasker_client.create("testing_kit", "order", {"quantity": 3})
    with pytest.raises(TimeoutError, match="still work to do"):
        run_until_idle(tasker_core, timeout_seconds=0)


def test_broken_rules_are_told_apart_from_what_is_due_later(
    tasker_core: OrchestrationCore, tasker_client: Tasker, tasker_clock: Clock
) -> None:
    handle = tasker_client.create("testing_kit", "order", {"quantity": 3})
    run_until_idle(tasker_core)
    assert broken_rules(tasker_core) == []
    tasker_clock.advance(hours=1)
    run_until_idle(tasker_core)
    assert broken_rules(tasker_core) == []
    with psycopg.connect(tasker_core.database.url, autocommit=True) as connection:
        connection.execute("UPDATE tasker.tasks SET skipped = 1")
    assert broken_rules(tasker_core) == [
        f"terminal-counters: task {handle.task_uuid}: open 0, failed 0, skipped 1; the steps say 0, 0, 0"
    ]
