"""The judge of storms: it passes a clean history, and finds each wrong that is planted in one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasker.config.manager import ConfigManager
from tasker.database.connection import Database
from tasker.workflows.registry import TemplateRegistry
from tests.chaos.storm import effects, shapes
from tests.chaos.storm.verdict import Verdict
from tests.sql_kit import Core

CHAIN, ONCE = (next(n for n in range(100) if shapes.shape_of(n) == name) for name in ("chain", "once"))


class History:
    """What two tasks, one of a chain and one with a step that must not run twice, left behind."""

    def __init__(self, url: str, book: Path) -> None:
        self.url, self.book = url, book
        self.core = Core(url)
        database = Database(url)
        registry = TemplateRegistry(database, ConfigManager.load("test"))
        for workflow in (shapes.chain, shapes.once):
            registry.register(workflow)
        database.close()
        for n in (CHAIN, ONCE):
            self.core.create(shapes.shape_of(n), namespace=shapes.NAMESPACE, context={"n": n})
        self._run()

    def _run(self) -> None:
        worker = self.core.executor(shapes.QUEUE)
        names = {
            (template, position): name
            for template, position, name in self.core.rows(
                "SELECT named_task_id, position, name FROM tasker.named_steps"
            )
        }
        while steps := worker.claim():
            answer = worker.last
            for step in steps:
                task, fence = step["task_uuid"], step["fence"]
                for what in ("begin", "end"):
                    effects.write(what, task, names[step["template"], step["position"]], fence, book=self.book)
                parents = answer["results"].get(task, {})
                mine = {
                    position: result for position, result in parents.items() if int(position) == step["position"] - 1
                }
                value = shapes.value_of(answer["tasks"][task]["context"]["n"], mine)
                worker.complete([step], outcome={"status": "complete", "results": {"value": value, "fence": fence}})

    def task(self, workflow: str) -> str:
        query = "SELECT task_uuid FROM tasker.tasks JOIN tasker.named_tasks USING (named_task_id) WHERE name = %s"
        return str(self.core.one(query, workflow))

    def change(self, statement: str, workflow: str) -> None:
        assert self.core.rows_affected(statement, self.task(workflow)) > 0

    def write(self, what: str, workflow: str, step: str, fence: int) -> None:
        effects.write(what, self.task(workflow), step, fence, book=self.book)

    def forget(self, step: str) -> None:
        lines = self.book.read_text().splitlines(keepends=True)
        self.book.write_text("".join(line for line in lines if step not in line))

    def judge(self) -> dict[str, int]:
        tasks = max(CHAIN, ONCE) + 1
        violations = Verdict(self.url, effects.read(self.book), tasks).violations.counts
        # The tasks of a storm are numbered from 0 without a gap; here there are two.
        violations["a task was not created exactly once"] -= tasks - 2
        return {kind: count for kind, count in violations.items() if count}


@pytest.fixture
def history(tasker_database_url: str, tmp_path: Path) -> Any:
    made = History(tasker_database_url, tmp_path / "effects.txt")
    yield made
    made.core.close()


def test_a_clean_history_passes(history: History) -> None:
    assert history.judge() == {}


STEPS = "UPDATE tasker.workflow_steps SET {} WHERE task_uuid = %s AND position = 1"
HISTORY = "UPDATE tasker.workflow_step_transitions SET {} WHERE task_uuid = %s AND position = 1 AND {}"

PLANTED: dict[str, Callable[[History], None]] = {
    "a handler ran twice under one claim": lambda h: h.write("begin", "chain", "c2", 1),
    "a handler ran without a claim": lambda h: h.write("begin", "chain", "c2", 2),
    "a step ran twice that must not": lambda h: h.write("begin", "once", "only_once", 2),
    "a wrong value": lambda h: h.change(STEPS.format("""results = '{"value": -1, "fence": 1}'"""), "chain"),
    "a result was taken from another run": lambda h: h.change(
        STEPS.format("results = jsonb_set(results, '{fence}', '2')"), "chain"
    ),
    "attempts do not add up": lambda h: h.change(STEPS.format("attempts = 2"), "chain"),
    "losses do not add up": lambda h: h.change(STEPS.format("losses = 1"), "chain"),
    "a step ended twice": lambda h: h.change(
        "INSERT INTO tasker.workflow_step_transitions (task_uuid, position, map_index, fence, from_state, to_state)"
        " SELECT task_uuid, 1, 0, 1, 'in_progress', 'complete' FROM tasker.tasks WHERE task_uuid = %s",
        "chain",
    ),
    "a start without one end": lambda h: h.change(
        "DELETE FROM tasker.workflow_step_transitions WHERE task_uuid = %s AND position = 1 AND to_state = 'complete'",
        "chain",
    ),
    "fences do not count the starts": lambda h: h.change(STEPS.format("fence = 2"), "chain"),
    "a step was started before its parents were complete": lambda h: h.change(
        HISTORY.format("at = at - interval '1 minute'", "to_state = 'in_progress'"), "chain"
    ),
    "a task did not end": lambda h: h.change("UPDATE tasker.tasks SET finished_at = NULL, state = 'in_progress',"
        " finalized_at = NULL, open = NULL, failed = NULL, skipped = NULL WHERE task_uuid = %s", "chain"),
    "a task ended otherwise than its steps say": lambda h: h.change(
        "UPDATE tasker.tasks SET state = 'error' WHERE task_uuid = %s", "chain"
    ),
    "a step failed without a reason": lambda h: h.change(
        STEPS.format("""state = 'error', results = NULL, error = '{"type": "Strange"}'"""), "chain"
    ),
    "a step did not end": lambda h: h.change(STEPS.format("state = 'enqueued', finished_at = NULL"), "chain"),
    "a task was not created exactly once": lambda h: h.change(
        f"""UPDATE tasker.task_contexts SET context = '{{"n": {CHAIN}}}' WHERE task_uuid = %s""", "once"
    ),
    "a result was taken of a handler that did not return": lambda h: h.forget(" c2 "),
}  # fmt: skip


@pytest.mark.parametrize("wrong", PLANTED)
def test_each_wrong_is_found(wrong: str, history: History) -> None:
    PLANTED[wrong](history)
    assert wrong in history.judge()
