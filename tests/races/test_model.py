"""Random histories of calls, each answer and the tables after each call compared with a model of the engine.

``model.py`` says what must come of every call. Here the calls are drawn: executors that lose answers, repeat, die and
report late, an operator, finalizers, and a second session that holds a transaction open on some tasks meanwhile. Each
history ends with everything run to its end, and with the invariants.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis.stateful import run_state_machine_as_test

from tests.races.calls_of_operators import OperatorCalls
from tests.races.calls_of_orchestration import OrchestrationCalls
from tests.races.comparing import TABLES
from tests.races.model import DEADLINE_SECONDS, MAX_ATTEMPTS, RETRY_SECONDS, WORKFLOWS
from tests.sql_kit import Core


class Engine(OrchestrationCalls, OperatorCalls):
    """All calls; at its end each history is run to the end, and judged."""

    def teardown(self) -> None:
        self.counts["histories"] += 1
        if self.pending is not None:
            self.let_go(commit=True)
        self.run_to_the_end()
        assert self.core.broken_rules() == []

    def run_to_the_end(self) -> None:
        core = self.core
        core.rows("SELECT tasker.deregister_executor(jsonb_build_object('executor', executor)) FROM tasker.executors")
        paused = [uuid for uuid, task in self.model.tasks.items() if task.state == "paused"]
        core.call("resume_tasks", {"task_uuids": paused})
        worker = core.executor()
        for number in range(1, 21):
            core.move_clock(self.model.now + number * 1000)
            core.call("recover_lost_steps", {"net_page": 50})
            core.call("process_step_results", {})
            core.call("enqueue_deferred_steps", {"limit": 50})
            ready = [task["task_uuid"] for task in core.call("claim_ready_tasks", {"processor": "last"})["tasks"]]
            core.call("enqueue_ready_steps", {"processor": "last", "task_uuids": ready})
            while steps := worker.claim(50):
                outcomes = worker.complete(steps)["outcomes"]
                self.note_effects([step | {"status": "complete"} for step in steps], outcomes)
            if not core.one("SELECT EXISTS (SELECT FROM tasker.tasks WHERE finished_at IS NULL)"):
                break
        else:
            raise AssertionError(f"not everything ended: {core.one(TABLES)}")
        states = core.rows("SELECT task_uuid::text, position, state FROM tasker.workflow_steps")
        completed = {(task, position): 1 for task, position, state in states if state == "complete"}
        assert dict(self.effects) == completed


def define(core: Core) -> None:
    for name, workflow in WORKFLOWS.items():
        graph = {f"s{n}": [f"s{parent}" for parent in parents] for n, parents in enumerate(workflow.parents)}
        common: dict[str, Any] = {"max_attempts": MAX_ATTEMPTS, "retryable": workflow.retryable}
        common |= {"backoff": "fixed", "backoff_base_ms": int(RETRY_SECONDS * 1000), "backoff_max_ms": 10**6}
        steps = {f"s{n}": {"delegated": True, "timeout_seconds": DEADLINE_SECONDS} for n in workflow.delegated}
        schema: dict[str, Any] = {"input_schema": {"type": "object"}} if workflow.checked else {}
        core.register(name, graph, step=common, steps=steps, has_after_work=workflow.hooks, **schema)


@pytest.mark.parametrize(
    ("histories", "length"),
    [
        pytest.param(60, 60, marks=pytest.mark.timeout(300)),
        pytest.param(4000, 80, marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
    ids=["short", "long"],
)
def test_whatever_is_called_the_engine_answers_as_its_model(
    tasker_database_url: str, histories: int, length: int
) -> None:
    given = os.environ.get("TASKER_TEST_SEED")
    number = int(given) if given else 1 if length == 60 else random.SystemRandom().randint(0, 2**32)
    print(f"TASKER_TEST_SEED={number}")

    class Machine(Engine):
        counts: ClassVar[Counter[str]] = Counter()
        core = Core(tasker_database_url)
        other = Core(tasker_database_url)

    for core in (Machine.core, Machine.other):
        core.connection.execute("SET statement_timeout = '20s'")
    define(Machine.core)
    seeded(number)(Machine)
    try:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=histories,
                stateful_step_count=length,
                deadline=None,
                database=None,
                # Making a failing history shorter takes minutes: the long form does.
                phases=[Phase.generate, *([Phase.shrink] if length > 60 else [])],
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        for what, count in sorted(Machine.counts.items()):
            print(f"{count:8} {what}")
        Machine.core.close()
        Machine.other.close()
