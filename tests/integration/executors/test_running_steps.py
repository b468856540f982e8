"""Steps are claimed, run and reported."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.executors.engine import Engine
from tests.integration.executors.steps import chain
from tests.waiting import wait_until

pytestmark = pytest.mark.orchestration


def test_a_chain_runs_to_its_end_and_leaves_nothing_behind(engine: Engine) -> None:
    def first(ctx: Any) -> Any:
        return {"n": ctx.context["number"]}

    def add(ctx: Any) -> Any:
        (value,) = ctx.results.values()
        return {"n": value["n"] + 1}

    engine.workflow(*chain(first, add, add, add))
    tasks = engine.create(10)
    executor = engine.run_until_idle()

    assert engine.task_states() == {"complete": 10}
    assert [engine.step(task, 3)["results"] for task in tasks] == [{"n": number + 3} for number in range(10)]
    assert engine.receipts() == 0
    assert engine.value("SELECT count(*) FROM tasker.executors") == 0
    assert executor.counters.snapshot()["completed"] == 40


def test_parents_results_too_large_for_the_claim_are_read_in_pages(engine: Engine) -> None:
    width = 120
    engine.workflow(
        *({"name": f"part_{n}", "handler": lambda ctx: {"text": ctx.step_name * 20}} for n in range(width)),
        {
            "name": "join",
            "handler": lambda ctx: {name: len(result["text"]) for name, result in ctx.results.items()},
            "depends_on": [f"part_{n}" for n in range(width)],
        },
    )
    engine.connection.execute("UPDATE tasker.named_steps SET expected_ms = 0.1")
    (task,) = engine.create()
    engine.run_until_idle(max_claim_bytes=1000)

    assert engine.step(task, width)["results"] == {f"part_{n}": 20 * len(f"part_{n}") for n in range(width)}


def test_heartbeats_go_on_while_a_handler_takes_long(engine: Engine) -> None:
    seen: list[Any] = []

    def patient(ctx: Any) -> Any:
        def heartbeat() -> Any:
            with engine.database.connect() as connection:
                return connection.execute("SELECT heartbeat_at, oldest_call_no FROM tasker.executors").fetchone()

        first = heartbeat()
        wait_until(lambda: heartbeat()[0] > first[0], "a heartbeat")
        second = heartbeat()
        wait_until(lambda: heartbeat()[0] > second[0], "another")
        seen.append(heartbeat()[1])

    engine.workflow({"name": "only", "handler": patient})
    engine.create()
    engine.run_until_idle()

    # The call that brought the step is the oldest that is held.
    assert seen == [1]


def test_durations_are_reported_early_where_none_is_known(engine: Engine) -> None:
    engine.workflow({"name": "only", "handler": lambda ctx: {}})
    engine.create(60)
    loop = engine.loop(engine.executor(), heartbeat_seconds=60)
    loop.run_until_idle()
    wait_until(lambda: engine.value("SELECT expected_ms FROM tasker.named_steps") is not None, "an early heartbeat")
    loop.close()

    assert engine.value("SELECT expected_ms FROM tasker.named_steps") < 1000


def test_batches_grow_once_durations_are_known(engine: Engine) -> None:
    engine.workflow({"name": "only", "handler": lambda ctx: {}})
    engine.create(50)
    unknown = engine.run_until_idle().counters.snapshot()
    engine.connection.execute("UPDATE tasker.named_steps SET expected_ms = 0.1")
    engine.create(50)
    known = engine.run_until_idle().counters.snapshot()

    # Unknown is the whole budget: one at a time, until there are samples; an early heartbeat may bring those.
    assert unknown["claims"] > known["claims"] == 1


def test_handlers_get_all_that_their_template_and_task_say(engine: Engine) -> None:
    seen: list[Any] = []
    engine.handlers.register("look", seen.append)
    engine.workflow(
        {
            "name": "only",
            "handler": {"callable": "look", "method": None, "initialization": {"unit": "cm"}},
            "max_attempts": 7,
        }
    )
    (task,) = engine.create(correlation_id="c-1")
    engine.run_until_idle()

    (ctx,) = seen
    assert (ctx.task_uuid, ctx.namespace, ctx.task_name, ctx.task_version) == (task, "testing", "flow", "1.0.0")
    assert (ctx.step_name, ctx.attempt, ctx.max_attempts) == ("only", 1, 7)
    assert (ctx.context, dict(ctx.settings), ctx.correlation_id) == ({"number": 0}, {"unit": "cm"}, "c-1")
    assert 0 < ctx.remaining_seconds() <= 30
