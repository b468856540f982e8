"""The five executors that move tasks along without running steps."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tasker.config.sections import DatabaseSettings
from tasker.config.settings import Settings
from tasker.core import OrchestrationCore
from tasker.database import functions
from tasker.executors.executor import ORCHESTRATION_KINDS, ExecutorKind
from tasker.executors.stop import StopSignal
from tasker.handlers.results import MISMATCH
from tasker.messaging.queues import STEP_RESULTS, TASK_REQUESTS
from tests.integration.executors.engine import Engine
from tests.waiting import wait_until

pytestmark = pytest.mark.orchestration

SCHEMA = {"type": "object", "required": ["order_id"], "properties": {"order_id": {"type": "integer"}}}


@pytest.fixture
def revoked() -> list[str]:
    return []


@pytest.fixture
def core(engine: Engine, revoked: list[str]) -> Iterator[OrchestrationCore]:
    settings = Settings(database=DatabaseSettings(url=engine.database.url))
    sent: list[Any] = []
    with OrchestrationCore.from_settings(settings, send=sent.append, revoke=revoked.extend) as core:
        core.handlers = engine.handlers
        yield core


def run(core: OrchestrationCore, *kinds: ExecutorKind) -> dict[str, dict[str, int]]:
    """Run until idle; what was counted, by kind."""
    stop = StopSignal()
    with core.build_loop(kinds or ORCHESTRATION_KINDS, ["testing_queue"], stop=stop, worker="test") as loop:
        counters = loop.run_until_idle(20).counters
    stop.close()
    return counters


def send(engine: Engine, queue: str, *messages: Any) -> None:
    """As somebody with nothing but PGMQ does."""
    for message in messages:
        engine.connection.execute("SELECT pgmq.send(%s, %s::jsonb)", (queue, orjson.dumps(message).decode()))


def dead_letters(engine: Engine) -> list[str]:
    return [row[0] for row in engine.rows("SELECT reason FROM tasker.dead_letters ORDER BY id")]


# -- task requests -------------------------------------------------------------------------------------------------


def test_a_message_becomes_a_task(engine: Engine, core: OrchestrationCore) -> None:
    engine.workflow({"name": "only", "handler": lambda ctx: {}}, input_schema=SCHEMA)
    request = {"namespace": "testing", "name": "flow", "context": {"order_id": 1}}
    send(engine, TASK_REQUESTS, request, {**request, "version": "1.0.0", "priority": 3, "tags": ["a"]})
    counters = run(core, ExecutorKind.TASK_REQUEST_PROCESSOR)

    assert counters["task_request_processor"]["created"] == 2
    assert engine.rows("SELECT state, context_checked FROM tasker.tasks") == [("in_progress", True)] * 2
    assert engine.value("SELECT count(*) FROM pgmq.q_task_requests_queue") == 0


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("text", "invalid_request"),
        ([], "invalid_request"),
        ({"name": "flow"}, "invalid_request"),
        ({"namespace": "testing", "name": 5}, "invalid_request"),
        ({"namespace": "testing", "name": "flow", "context": {"order_id": 1}, "colour": "red"}, "invalid_request"),
        ({"namespace": "testing", "name": "flow", "context": {"order_id": 1}, "run_at": "soon"}, "invalid_request"),
        ({"namespace": "testing", "name": "other", "context": {}}, "unknown_template"),
        ({"namespace": "testing", "name": "flow", "version": "9.0.0", "context": {}}, "unknown_template"),
        ({"namespace": "testing", "name": "flow", "context": {"order_id": "one"}}, "invalid_context"),
        ({"namespace": "testing", "name": "flow"}, "invalid_context"),
        ({"namespace": "testing", "name": "flow", "context": {"order_id": 1, "x": "y" * 2000}}, "payload_too_large"),
    ],
)
def test_a_request_that_is_wrong_goes_to_dead_letters_and_its_neighbours_pass(
    engine: Engine, core: OrchestrationCore, message: Any, reason: str
) -> None:
    engine.workflow({"name": "only", "handler": lambda ctx: {}}, input_schema=SCHEMA, max_context_bytes=1024)
    good = {"namespace": "testing", "name": "flow", "context": {"order_id": 1}}
    send(engine, TASK_REQUESTS, good, good, message, good)
    run(core, ExecutorKind.TASK_REQUEST_PROCESSOR)

    assert dead_letters(engine) == [reason]
    assert engine.value("SELECT count(*) FROM tasker.tasks") == 3
    assert engine.value("SELECT count(*) FROM pgmq.q_task_requests_queue") == 0


# -- admission -----------------------------------------------------------------------------------------------------


def test_contexts_that_came_by_sql_are_checked_before_their_tasks_run(engine: Engine, core: OrchestrationCore) -> None:
    engine.workflow({"name": "only", "handler": lambda ctx: {}}, input_schema=SCHEMA)
    for context in ('{"order_id": 1}', '{"order_id": "one"}'):
        engine.connection.execute("SELECT tasker.create_task('testing', 'flow', %s::jsonb)", (context,))
    assert engine.task_states() == {"pending": 2}
    counters = run(core, ExecutorKind.TASK_CLAIMER)

    assert counters["task_claimer"] == {"taken": 2, "admitted": 1, "rejected": 1}
    assert engine.task_states() == {"in_progress": 1, "error": 1}


def test_a_task_with_a_time_is_admitted_when_that_has_come(
    engine: Engine, core: OrchestrationCore, tasker_clock: Any
) -> None:
    tasker_clock.attach(core.database)
    engine.workflow({"name": "only", "handler": lambda ctx: {}})
    engine.create(run_at="2999-01-01T00:00:00Z")
    run(core)
    assert engine.task_states() == {"pending": 1}

    tasker_clock.advance(hours=24 * 365 * 1000)
    run(core, *ExecutorKind)
    assert engine.task_states() == {"complete": 1}


# -- wide fan-outs -------------------------------------------------------------------------------------------------


def test_a_wide_fan_out_is_sent_in_parts(engine: Engine, core: OrchestrationCore) -> None:
    width = 600
    engine.workflow(
        {"name": "first", "handler": lambda ctx: {}},
        *({"name": f"branch_{n}", "handler": lambda ctx: {}, "depends_on": ["first"]} for n in range(width)),
    )
    engine.connection.execute("UPDATE tasker.named_steps SET expected_ms = 0.01")
    engine.create()
    counters = run(core, *ExecutorKind)

    assert engine.task_states() == {"complete": 1}
    assert counters["step_enqueuer"]["taken"] >= 2


# -- results by message ----------------------------------------------------------------------------------------------


def _delegated(engine: Engine, core: OrchestrationCore, **step: Any) -> tuple[str, dict[str, Any]]:
    """A task whose step was sent to a Celery task, and what that answers with."""
    handler = {"callable": "celery:shop.charge", "method": None, "initialization": {}}
    engine.workflow(
        {"name": "charge", "handler": handler, "delegated": True, **step},
        {"name": "after", "handler": lambda ctx: ctx.results, "depends_on": ["charge"]},
    )
    (task,) = engine.create()
    run(core, ExecutorKind.STEP_EXECUTOR)
    row = engine.step(task)
    assert row["state"] == "in_progress"
    names = ("task_uuid", "step_uuid", "fence", "executor")
    return task, {name: row[name] if name == "fence" else str(row[name]) for name in names}


def test_a_result_by_message_completes_its_step_once(engine: Engine, core: OrchestrationCore) -> None:
    task, answer = _delegated(engine, core)
    message = {**answer, "status": "complete", "results": {"paid": 7}}
    send(engine, STEP_RESULTS, message, message)
    counters = run(core, *ExecutorKind)

    assert engine.step(task, 1)["results"] == {"charge": {"paid": 7}}
    assert engine.task_states() == {"complete": 1}
    # The second is the same report of the same fence: accepted again, and nothing follows from it.
    assert counters["step_result_processor"]["taken"] == 2
    assert engine.value("SELECT count(*) FROM tasker.workflow_step_transitions WHERE to_state = 'complete'") == 2
    assert engine.value("SELECT count(*) FROM tasker.step_timers") == 0


def test_a_result_by_message_that_does_not_fit_its_schema_is_a_permanent_error(
    engine: Engine, core: OrchestrationCore
) -> None:
    schema = {"type": "object", "required": ["paid"]}
    task, answer = _delegated(engine, core, result_schema=schema)
    send(engine, STEP_RESULTS, {**answer, "status": "complete", "results": {"sum": 7}})
    run(core)

    step = engine.step(task)
    assert (step["state"], step["error"]["type"]) == ("error", MISMATCH)
    assert "paid" in step["error"]["message"]


@pytest.mark.parametrize(
    "change",
    [
        {"status": "done"},
        {"fence": "1"},
        {"fence": 0},
        {"task_uuid": "one"},
        {"executor": None},
        {"status": "error", "error": "failed"},
        {"status": "error", "error": {"message": 5}},
        {"status": "error", "error": {"message": "m", "retryable": "yes"}},
        {"status": "error", "error": {"message": "m", "retry_after_seconds": "soon"}},
    ],
)
def test_a_result_that_is_wrong_goes_to_dead_letters(
    engine: Engine, core: OrchestrationCore, change: dict[str, Any]
) -> None:
    task, answer = _delegated(engine, core)
    send(engine, STEP_RESULTS, {**answer, "status": "complete", "results": {}, **change}, "not even an object")
    run(core)

    assert dead_letters(engine) == ["invalid_outcome"] * 2
    assert engine.step(task)["state"] == "in_progress"


def test_a_result_of_another_executor_or_fence_is_stale(engine: Engine, core: OrchestrationCore) -> None:
    task, answer = _delegated(engine, core)
    message = {**answer, "status": "complete", "results": {}}
    send(
        engine,
        STEP_RESULTS,
        {**message, "executor": str(uuid.uuid4())},
        {**message, "fence": 99},
        {**message, "task_uuid": str(uuid.uuid4())},
    )
    counters = run(core)

    assert counters["step_result_processor"]["stale"] == 3
    assert engine.step(task)["state"] == "in_progress"


def test_a_delegated_step_without_an_answer_times_out_and_its_task_is_revoked(
    engine: Engine, core: OrchestrationCore, tasker_clock: Any, revoked: list[str]
) -> None:
    tasker_clock.attach(core.database)
    task, answer = _delegated(engine, core, timeout_seconds=60, max_attempts=1)
    tasker_clock.advance(seconds=61)
    run(core)

    step = engine.step(task)
    assert (step["state"], step["error"]["type"]) == ("error", "timeout")
    assert revoked == [f"{answer['step_uuid']}:{answer['fence']}"]


def test_the_celery_task_of_a_cancelled_step_is_revoked(
    engine: Engine, core: OrchestrationCore, revoked: list[str]
) -> None:
    task, answer = _delegated(engine, core)
    functions.run(engine.connection, functions.cancel_tasks({"task_uuids": [task], "by": "me", "reason": "no"}))
    run(core)

    assert revoked == [f"{answer['step_uuid']}:{answer['fence']}"]


def test_a_result_waits_for_a_task_that_somebody_keeps_locked_however_often_it_is_looked_at(
    engine: Engine, core: OrchestrationCore
) -> None:
    task, answer = _delegated(engine, core)
    send(engine, STEP_RESULTS, {**answer, "status": "complete", "results": {"paid": 7}})
    with engine.database.connect(application_name="user") as user, user.transaction():
        user.execute("SELECT FROM tasker.tasks WHERE task_uuid = %s FOR UPDATE", (task,))
        for _ in range(8):  # more often than a message may be received
            run(core, ExecutorKind.STEP_RESULT_PROCESSOR)
            assert engine.value("SELECT max(read_ct) FROM pgmq.q_orchestration_step_results") == 0
            engine.connection.execute("UPDATE pgmq.q_orchestration_step_results SET vt = clock_timestamp()")
    run(core, ExecutorKind.STEP_RESULT_PROCESSOR)
    assert dead_letters(engine) == []
    assert engine.step(task)["state"] == "complete"


# -- circuits ------------------------------------------------------------------------------------------------------


@pytest.mark.circuit_breaker
def test_outcomes_of_celery_tasks_count_for_the_circuit_of_their_system(
    engine: Engine, core: OrchestrationCore
) -> None:
    failed = {"status": "error", "error": {"message": "refused", "type": "ConnectionError"}}
    retries = {"max_attempts": 9, "backoff_base_ms": 3_600_000, "backoff_max_ms": 3_600_000}
    _delegated(engine, core, system_dependency="bank", **retries)
    for _ in range(5):
        engine.create()
    run(core, ExecutorKind.STEP_EXECUTOR)
    answers = [
        {"task_uuid": str(row[0]), "step_uuid": str(row[1]), "fence": row[2], "executor": str(row[3])}
        for row in engine.rows(
            "SELECT task_uuid, step_uuid, fence, executor FROM tasker.workflow_steps WHERE state = 'in_progress'"
        )
    ]
    permanent = {"status": "error", "error": {"message": "no such account", "retryable": False}}
    send(engine, STEP_RESULTS, {**answers[0], **permanent})
    send(engine, STEP_RESULTS, *({**answer, **failed} for answer in answers[1:4]), {**answers[1], **failed})
    counters = run(core)["step_result_processor"]
    assert (counters["circuit_calls_failure"], counters["circuit_calls_neutral"]) == (3, 1)
    wait_until(lambda: _bank(engine) == ("closed", 3), "three failures are counted")
    send(engine, STEP_RESULTS, {**answers[4], "status": "complete", "results": {}})
    run(core)
    wait_until(lambda: _bank(engine) == ("closed", 0), "a success forgets them")


@pytest.mark.circuit_breaker
def test_a_celery_task_that_tries_a_half_open_circuit_closes_it_when_it_comes_back(
    engine: Engine, core: OrchestrationCore
) -> None:
    _, late = _delegated(engine, core, system_dependency="bank")
    core.circuits.force_open("bank")
    for _ in range(3):
        engine.create()
    run(core, ExecutorKind.STEP_EXECUTOR)
    engine.rows("UPDATE tasker.circuit_breakers SET forced = false, retry_at = tasker.now() RETURNING name")
    for success in range(2):
        run(core, ExecutorKind.STEP_EXECUTOR)
        send(engine, STEP_RESULTS, *([{**late, "status": "complete", "results": {}}] if success == 0 else []))
        (row,) = engine.rows(
            "SELECT task_uuid, step_uuid, fence, executor FROM tasker.workflow_steps WHERE state = 'in_progress'"
            " AND step_uuid <> %s",
            late["step_uuid"],
        )
        assert _bank(engine)[0] == "half_open"
        answer = dict(
            zip(("task_uuid", "step_uuid", "fence", "executor"), (*map(str, row[:2]), row[2], str(row[3])), strict=True)
        )
        send(engine, STEP_RESULTS, {**answer, "status": "complete", "results": {}})
        run(core)
        wait_until(lambda n=success: _successes(engine) == (None if n else 1), "the one that tried is counted")
    assert _bank(engine)[0] == "closed"


def _bank(engine: Engine) -> tuple[str, int] | None:
    found = engine.rows("SELECT state, failures FROM tasker.circuit_breakers WHERE name = 'bank'")
    return found[0] if found else None


def _successes(engine: Engine) -> int | None:
    """Of tries so far; ``None`` once they have closed the circuit."""
    ((state, successes),) = engine.rows("SELECT state, successes FROM tasker.circuit_breakers WHERE name = 'bank'")
    return None if state == "closed" else int(successes)
