"""What becomes of steps whose handlers fail, hang, or return what cannot be stored."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from tasker.database import functions
from tasker.errors import PermanentError, RetryableError, StepCancelled
from tests.integration.executors.engine import Engine
from tests.waiting import wait_until

pytestmark = pytest.mark.orchestration


def test_a_retryable_error_is_tried_again_until_the_attempts_are_spent(engine: Engine) -> None:
    attempts: list[int] = []

    def flaky(ctx: Any) -> Any:
        attempts.append(ctx.attempt)
        raise RetryableError("not yet", code="later")

    engine.workflow({"name": "only", "handler": flaky, "max_attempts": 3})
    (task,) = engine.create()
    engine.run_until_idle()

    assert attempts == [1, 2, 3]
    assert engine.task_states() == {"error": 1}
    assert engine.step(task)["error"]["type"] == "later"


def test_a_permanent_error_ends_the_step_at_once(engine: Engine) -> None:
    def refuse(ctx: Any) -> Any:
        raise PermanentError("no such card", code="card_unknown")

    engine.workflow({"name": "only", "handler": refuse})
    (task,) = engine.create()
    engine.run_until_idle()

    step = engine.step(task)
    assert (step["state"], step["attempts"], step["error"]["type"]) == ("error", 1, "card_unknown")


def test_sys_exit_in_a_handler_is_an_ordinary_failure(engine: Engine) -> None:
    def leave(ctx: Any) -> Any:
        raise SystemExit(3)

    engine.workflow({"name": "only", "handler": leave, "max_attempts": 1})
    (task,) = engine.create()
    engine.run_until_idle()

    assert engine.step(task)["error"]["type"] == "SystemExit"


def test_a_missing_handler_is_an_error_of_its_step_alone(engine: Engine) -> None:
    engine.workflow({"name": "only", "handler": {"callable": "nowhere.to.be_found"}, "max_attempts": 1}, name="lost")
    engine.workflow({"name": "only", "handler": lambda ctx: {}})
    (lost,) = engine.create(name="lost")
    engine.create()
    engine.run_until_idle()

    assert engine.task_states() == {"error": 1, "complete": 1}
    assert engine.step(lost)["error"]["type"] == "HandlerNotFound"


@pytest.mark.parametrize("value", [float("nan"), "a\0b", "\ud800", {1: 2}, object()])
def test_a_result_that_json_cannot_carry_is_a_permanent_error_of_that_step(engine: Engine, value: Any) -> None:
    def answer(ctx: Any) -> Any:
        return {"value": value} if ctx.context["number"] == 1 else {}

    engine.workflow({"name": "only", "handler": answer})
    tasks = engine.create(3)
    engine.run_until_idle()

    assert engine.task_states() == {"error": 1, "complete": 2}
    step = engine.step(tasks[1])
    assert (step["attempts"], step["error"]["type"]) == (1, "result_not_storable")


def test_a_value_that_only_the_server_refuses_harms_one_step_of_its_batch(engine: Engine) -> None:
    def answer(ctx: Any) -> Any:
        # Within JSON's grammar, and beyond what PostgreSQL's numeric holds.
        return {"number": 10**200000 if ctx.context["number"] == 17 else 1}

    engine.workflow({"name": "only", "handler": answer})
    engine.connection.execute("UPDATE tasker.named_steps SET expected_ms = 0.01")
    # Past our own encoder, so that it is the server that refuses.
    executor = engine.executor()
    preparer = executor._preparer
    outcome = preparer.outcome

    def unchecked(step: Any, result: Any) -> Any:
        from tasker.executors.outcomes import completed

        big = result["number"] > 1
        return completed(step, b'{"number": 1e200000}') if big else outcome(step, result)

    preparer.outcome = unchecked  # type: ignore[method-assign]
    tasks = engine.create(40)
    engine.run_until_idle(executor)

    assert engine.task_states() == {"error": 1, "complete": 39}
    step = engine.step(tasks[17])
    assert (step["state"], step["error"]["type"]) == ("error", "result_not_storable")
    assert executor.counters.snapshot()["bisections"] >= 1
    assert engine.receipts() == 0


def test_a_sync_handler_past_its_timeout_is_interrupted_even_in_a_blocking_call(engine: Engine) -> None:
    seen: list[str] = []

    def hang(ctx: Any) -> Any:
        try:
            time.sleep(30)
        finally:
            seen.append("left")

    engine.workflow({"name": "only", "handler": hang, "timeout_seconds": 0.2, "max_attempts": 2})
    (task,) = engine.create()
    began = time.monotonic()
    engine.run_until_idle()

    assert seen == ["left", "left"]
    assert time.monotonic() - began < 15
    step = engine.step(task)
    assert (step["state"], step["attempts"], step["error"]["type"]) == ("error", 2, "timeout")


def test_on_another_thread_a_handler_that_runs_python_is_interrupted_as_well(engine: Engine) -> None:
    def spin(ctx: Any) -> Any:
        while True:
            time.sleep(0.01)

    engine.workflow(
        {"name": "slow", "handler": spin, "timeout_seconds": 0.1, "max_attempts": 1},
        {"name": "other", "handler": lambda ctx: {}},
    )
    (task,) = engine.create()
    thread = threading.Thread(target=engine.run_until_idle)
    thread.start()
    thread.join(20)

    assert not thread.is_alive()
    assert engine.step(task, 0)["error"]["type"] == "timeout"
    assert engine.step(task, 1)["state"] == "complete"


def test_an_async_handler_past_its_timeout_is_cancelled(engine: Engine) -> None:
    seen: list[str] = []

    async def hang(ctx: Any) -> Any:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    engine.workflow({"name": "only", "handler": hang, "timeout_seconds": 0.1, "max_attempts": 1})
    (task,) = engine.create()
    engine.run_until_idle()

    wait_until(lambda: seen == ["cancelled"], "the handler to be cancelled")
    assert engine.step(task)["error"]["type"] == "timeout"


def test_a_late_result_of_a_step_that_timed_out_is_dropped(engine: Engine) -> None:
    def stubborn(ctx: Any) -> Any:
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            try:
                time.sleep(0.05)
            except BaseException:
                pass
        return {"late": True}

    engine.workflow({"name": "only", "handler": stubborn, "timeout_seconds": 0.1, "max_attempts": 1})
    (task,) = engine.create()
    engine.run_until_idle()

    step = engine.step(task)
    assert (step["state"], step["results"]) == ("error", None)


def _run_and_cancel(engine: Engine, task: str, running: threading.Event) -> None:
    """Run what there is; a task is cancelled once its handler says that it runs."""

    def cancel() -> None:
        running.wait(20)
        with engine.database.connect() as connection:
            functions.run(connection, functions.cancel_tasks({"task_uuids": [task], "by": "test", "reason": "test"}))

    thread = threading.Thread(target=cancel)
    thread.start()
    engine.run_until_idle()
    thread.join()


def test_a_cancelled_step_learns_of_it_from_check_cancelled(engine: Engine) -> None:
    running = threading.Event()
    reasons: list[str | None] = []

    def patient(ctx: Any) -> Any:
        running.set()
        while True:
            try:
                ctx.check_cancelled()
            except StepCancelled as error:
                reasons.append(error.code)
                raise
            time.sleep(0.01)

    engine.workflow({"name": "only", "handler": patient})
    (task,) = engine.create()
    _run_and_cancel(engine, task, running)

    assert reasons == ["cancelled"]
    assert engine.step(task)["state"] == "cancelled"
    assert engine.receipts() == 0


def test_a_cancelled_async_step_gets_a_cancelled_error(engine: Engine) -> None:
    running = threading.Event()
    seen: list[str] = []

    async def patient(ctx: Any) -> Any:
        running.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    engine.workflow({"name": "only", "handler": patient})
    (task,) = engine.create()
    _run_and_cancel(engine, task, running)

    wait_until(lambda: seen == ["cancelled"], "the handler to be cancelled")
    assert engine.step(task)["state"] == "cancelled"


def test_a_step_that_must_not_run_twice_is_marked_before_it_runs(engine: Engine) -> None:
    marks: list[Any] = []

    def once(ctx: Any) -> Any:
        with engine.database.connect() as connection:
            row = connection.execute(
                "SELECT start_marked_at FROM tasker.workflow_steps WHERE task_uuid = %s", (ctx.task_uuid,)
            ).fetchone()
        marks.append(row and row[0])
        raise RetryableError("failed")

    engine.workflow({"name": "only", "handler": once, "retryable": False})
    (task,) = engine.create()
    engine.run_until_idle()

    assert len(marks) == 1
    assert marks[0] is not None
    assert engine.step(task)["state"] == "error"


def test_a_start_mark_that_the_server_fails_to_write_is_tried_again(engine: Engine) -> None:
    runs: list[int] = []

    def handler(ctx: Any) -> Any:
        runs.append(ctx.attempt)
        return {}

    engine.workflow({"name": "only", "handler": handler, "retryable": False, "timeout_seconds": 60})
    mark = engine.value("SELECT pg_get_functiondef(to_regprocedure('tasker.mark_steps_started(jsonb)'))")
    engine.connection.execute(
        """CREATE OR REPLACE FUNCTION tasker.mark_steps_started(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
           BEGIN RAISE EXCEPTION 'could not write to file: Disk quota exceeded' USING ERRCODE = 'XX000'; END $$"""
    )
    (task,) = engine.create()
    executor = engine.executor()
    loop = engine.loop(executor)
    thread = threading.Thread(target=loop.run)
    thread.start()
    wait_until(lambda: executor.counters.snapshot().get("released"), "the step to be given back")
    engine.connection.execute(mark)
    wait_until(lambda: engine.step(task)["state"] == "complete", "its end")
    engine.stop.set()
    thread.join(20)
    loop.close()
    assert (runs, engine.step(task)["attempts"]) == ([1], 1)
