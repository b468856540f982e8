"""Steps are claimed, run and reported."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.executors.engine import Engine

pytestmark = pytest.mark.orchestration


def chain(*handlers: Any) -> list[dict[str, Any]]:
    """Steps that each depend on the one before."""
    return [
        {"name": f"step_{index}", "handler": handler, "depends_on": [f"step_{index - 1}"] if index else []}
        for index, handler in enumerate(handlers)
    ]


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
