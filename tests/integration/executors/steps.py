"""Steps for the engine: in a chain, counted as they run, or held while they do."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from tests.integration.executors.engine import DEADLINE_SECONDS, Engine


def chain(*handlers: Any) -> list[dict[str, Any]]:
    """Steps that each depend on the one before."""
    return [
        {"name": f"step_{index}", "handler": handler, "depends_on": [f"step_{index - 1}"] if index else []}
        for index, handler in enumerate(handlers)
    ]


class CountedChain:
    """Tasks of four steps in a row, and how often each step of each ran."""

    def __init__(self, engine: Engine, tasks: int) -> None:
        self._engine = engine
        self._tasks = tasks
        self._runs: Counter[tuple[str, str]] = Counter()
        engine.workflow(*chain(*[self._count] * 4))
        engine.create(tasks)

    def _count(self, ctx: Any) -> Any:
        self._runs[ctx.task_uuid, ctx.step_name] += 1
        return {}

    def check_once(self) -> None:
        """Every step ran once and is complete, and nothing is held."""
        steps = 4 * self._tasks
        completed = "SELECT count(*) FROM tasker.workflow_step_transitions WHERE to_state = 'complete'"
        assert self._engine.task_states() == {"complete": self._tasks}
        assert set(self._runs.values()) == {1}
        assert len(self._runs) == steps
        assert self._engine.value(completed) == steps
        assert self._engine.receipts() == 0


class HeldStep:
    """A handler that says that it runs, and ends when it may."""

    def __init__(self) -> None:
        self.runs = threading.Event()
        self.may_end = threading.Event()

    def handle(self, ctx: Any) -> Any:
        self.runs.set()
        self.may_end.wait(DEADLINE_SECONDS)
        return {"done": True}
