"""Why is it not running? Each reason there is, provoked; the list of reasons is closed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.sql_kit import CHAIN, Core, fan

PAGE = Path(__file__).parents[3] / "docs/reference/states.md"

TASK_REASONS: dict[str, Callable[[Core], str]] = {}
STEP_REASONS: dict[str, Callable[[Core], tuple[str, str]]] = {}


def of_task(provoke: Callable[[Core], str]) -> Callable[[Core], str]:
    TASK_REASONS[provoke.__name__] = provoke
    return provoke


def of_step(provoke: Callable[[Core], tuple[str, str]]) -> Callable[[Core], tuple[str, str]]:
    STEP_REASONS[provoke.__name__] = provoke
    return provoke


def create(core: Core, **request: Any) -> str:
    core.register("order", CHAIN)
    return core.create("order", **request)[0]


def orchestrated(core: Core) -> None:
    core.executor("admission", kind="task_claimer")


# -- tasks ----------------------------------------------------------------------------------------------------------


@of_task
def finished(core: Core) -> str:
    task = create(core)
    core.executor("shop_queue").run_all()
    return task


@of_task
def waiting_for_finalization(core: Core) -> str:
    core.register("order", {"a": []}, has_after_work=True)
    (task,) = core.create("order")
    core.executor("shop_queue").run_all()
    return task


@of_task
def paused(core: Core) -> str:
    task = create(core)
    core.call("pause_tasks", {"task_uuids": [task], "by": "ann", "reason": "asked to"})
    return task


@of_task
def scheduled(core: Core) -> str:
    return create(core, run_at="2100-01-01T00:00:00Z")


@of_task
def waiting_for_context_check(core: Core) -> str:
    core.register("order", {"a": []}, input_schema={"type": "object"})
    return core.create("order")[0]


@of_task
def waiting_for_admission(core: Core) -> str:
    task = waiting_for_room(core)
    core.call("measure_admission", {"every_seconds": 0})
    return task


@of_task
def waiting_for_room(core: Core) -> str:
    create(core)
    core.call("measure_admission", {"soft_queue_depth": 1, "every_seconds": 0})
    return core.create("order")[0]


@of_task
def in_progress(core: Core) -> str:
    return create(core)


# -- steps ----------------------------------------------------------------------------------------------------------


@of_step
def running(core: Core) -> tuple[str, str]:
    task = create(core)
    core.executor("shop_queue").claim()
    return task, "a"


@of_step
def executor_silent(core: Core) -> tuple[str, str]:
    task = create(core)
    core.executor("shop_queue").claim()
    core.rows_affected("UPDATE tasker.executors SET heartbeat_at = clock_timestamp() - interval '1 minute'")
    return task, "a"


@of_step
def delegated(core: Core) -> tuple[str, str]:
    core.register("order", {"a": []}, step={"delegated": True, "timeout_seconds": 60})
    (task,) = core.create("order")
    worker = core.executor("shop_queue")
    worker.complete(worker.claim(), outcome={"status": "delegated", "deadline_seconds": 60})
    return task, "a"


@of_step
def retry_scheduled(core: Core) -> tuple[str, str]:
    core.register("order", {"a": []}, step={"backoff": "fixed", "backoff_base_ms": 60_000})
    (task,) = core.create("order")
    worker = core.executor("shop_queue")
    worker.fail(worker.claim())
    return task, "a"


@of_step
def retry_due(core: Core) -> tuple[str, str]:
    task, step = retry_scheduled(core)
    core.move_clock(61)
    return task, step


@of_step
def waiting_for_circuit(core: Core) -> tuple[str, str]:
    core.register("order", {"a": []}, step={"system_dependency": "bank"})
    (task,) = core.create("order")
    core.call("report_circuit", {"name": "bank", "failures": 9, "reason": "503 from the bank"})
    core.executor("shop_queue").claim()
    return task, "a"


@of_step
def waiting_for_limit(core: Core) -> tuple[str, str]:
    core.register("order", {"a": []}, concurrency={"path": ["tenant"], "max_steps": 1})
    _, task = core.create("order", 2, context={"tenant": "acme"})
    core.executor("shop_queue").claim()
    return task, "a"


@of_step
def waiting_for_rate(core: Core) -> tuple[str, str]:
    core.register("order", {"a": []})
    core.call("set_namespace", {"namespace": "shop", "rate_count": 1, "rate_seconds": 60})
    _, task = core.create("order", 2)
    core.executor("shop_queue").claim()
    return task, "a"


@of_step
def queued(core: Core) -> tuple[str, str]:
    worker = core.executor("shop_queue")
    core.call("set_executor_idle", {"executor": worker.uuid, "idle": True})
    return create(core), "a"


@of_step
def all_busy(core: Core) -> tuple[str, str]:
    core.executor("shop_queue")
    return create(core), "a"


@of_step
def no_executor(core: Core) -> tuple[str, str]:
    return create(core), "a"


@of_step
def namespace_paused(core: Core) -> tuple[str, str]:
    task = create(core)
    core.call("pause_namespaces", {"namespaces": ["shop"], "by": "ann", "reason": "stocktaking"})
    return task, "a"


@of_step
def task_paused(core: Core) -> tuple[str, str]:
    return paused(core), "a"


@of_step
def waiting_for_dependencies(core: Core) -> tuple[str, str]:
    return create(core), "b"


@of_step
def blocked_by_failure(core: Core) -> tuple[str, str]:
    core.register("order", {**fan(2), "alone": []}, step={"max_attempts": 1})
    (task,) = core.create("order")
    worker = core.executor("shop_queue")
    first, *_ = sorted(worker.claim(), key=lambda step: step["position"])
    worker.fail([first])
    return task, "m0"


@of_step
def failed(core: Core) -> tuple[str, str]:
    task, _ = blocked_by_failure(core)
    return task, "first"


@pytest.mark.parametrize("reason", TASK_REASONS)
def test_a_task_says_why_it_does_not_run_and_what_to_do(core: Core, reason: str) -> None:
    orchestrated(core)
    answer = core.call("explain_task", TASK_REASONS[reason](core))
    assert answer["reason"] == reason
    assert answer["detail"]
    assert answer["what_to_do"]


@pytest.mark.parametrize("reason", STEP_REASONS)
def test_a_step_says_why_it_does_not_run_and_what_to_do(core: Core, reason: str) -> None:
    task, name = STEP_REASONS[reason](core)
    answer = core.call("explain_task", task)
    (step,) = [step for step in answer["steps"] if step["step"] == name]
    assert step["reason"] == reason
    assert step["detail"] or reason == "task_paused"
    assert step["what_to_do"]
    print(f"{reason:26} {step['detail']} | {step['what_to_do']}")


def test_the_page_names_exactly_these_reasons() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith(("| a task |", "| a step that has"))]
    assert [set(re.findall(r"`(\w+)`", line)) for line in lines] == [set(TASK_REASONS), set(STEP_REASONS)]
