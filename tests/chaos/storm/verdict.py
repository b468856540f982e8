"""What a storm left behind, held against what is promised: the history, the book of effects, the rules."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.chaos.storm import shapes
from tests.chaos.storm.effects import Effect
from tests.sql_kit import Core

StepKey = tuple[str, str]
"""Task and name of a step."""

_ENDS = ("complete", "error")
_GIVEN_BACK = "enqueued"
_MAX_LOSSES = 5


@dataclass
class Violations:
    """What may not be, by kind, each with examples."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, example: object) -> None:
        """Note one."""
        self.counts[kind] += 1
        if len(self.examples[kind]) < 5:
            self.examples[kind].append(str(example))

    def check(self, holds: object, kind: str, example: object) -> None:
        """Note one unless ``holds``."""
        if not holds:
            self.add(kind, example)


@dataclass
class Figures:
    """What was counted on the way.

    Attributes:
        tasks: how many ended.
        steps: that were started at least once.
        starts: of steps, as the history tells.
        effects: handlers that began.
        losses: steps that lost their executor.
        requeued: why steps returned to their queues, how often.
        unreported: runs whose handler returned, and whose result was not taken: never reported, or refused.
        errors: steps in ``error``, by the error's type.
    """

    tasks: int = 0
    steps: int = 0
    starts: int = 0
    effects: int = 0
    losses: int = 0
    requeued: Counter[str] = field(default_factory=Counter)
    unreported: int = 0
    errors: Counter[str] = field(default_factory=Counter)


class Verdict:
    """Judges one storm once everything has ended.

    Args:
        url: the database.
        effects: the book.
        tasks: how many tasks there have to be.
    """

    def __init__(self, url: str, effects: Iterable[Effect], tasks: int) -> None:
        self.violations = Violations()
        self.figures = Figures()
        self._tasks = tasks
        self._effects = list(effects)
        self._core = Core(url)
        self._core.move_clock(0)
        try:
            self._judge()
        finally:
            self._core.close()

    def _judge(self) -> None:
        self._read()
        self._judge_tasks()
        self._judge_effects()
        for key, step in self._steps.items():
            self._judge_step(key, step, self._history.get(key, []))
        self._judge_hooks()
        self.violations.check(check_rules(self._core, self.violations), "rules that cannot be checked", self._tasks)

    # -- reading --------------------------------------------------------------------------------------------------

    def _dicts(self, query: str) -> list[dict[str, Any]]:
        cursor = self._core.connection.cursor(row_factory=psycopg.rows.dict_row)
        return cursor.execute(query.encode()).fetchall()

    def _read(self) -> None:
        self._runs = {
            row["task"]: row
            for row in self._dicts(
                """SELECT t.task_uuid::text AS task, t.state, d.name AS workflow, t.finished_at, t.finalized_at,
                          t.finish_no, c.context
                   FROM tasker.tasks AS t JOIN tasker.named_tasks AS d USING (named_task_id)
                   JOIN tasker.task_contexts AS c USING (task_uuid)"""
            )
        }
        steps = self._dicts(
            """SELECT s.task_uuid::text AS task, s.position, n.name AS step, s.state, s.fence, s.attempts, s.losses,
                      s.results, s.error, n.retryable, n.depends_on
               FROM tasker.workflow_steps AS s JOIN tasker.tasks AS t USING (task_uuid)
               JOIN tasker.named_steps AS n ON n.named_task_id = t.named_task_id AND n.position = s.position"""
        )
        self._steps: dict[StepKey, dict[str, Any]] = {(row["task"], row["step"]): row for row in steps}
        self._states: dict[str, set[str]] = defaultdict(set)
        for row in steps:
            self._states[row["task"]].add(row["state"])
        names = {(row["task"], row["position"]): row["step"] for row in steps}
        self._parents: dict[StepKey, list[StepKey]] = {
            key: [(row["task"], names[row["task"], parent]) for parent in row["depends_on"]]
            for key, row in self._steps.items()
        }
        self._history: dict[StepKey, list[dict[str, Any]]] = defaultdict(list)
        for row in self._dicts(
            """SELECT task_uuid::text AS task, position, fence, from_state, to_state, reason, at
               FROM tasker.workflow_step_transitions ORDER BY fence, to_state <> 'in_progress'"""
        ):
            self._history[row["task"], names[row["task"], row["position"]]].append(row)

    # -- tasks ----------------------------------------------------------------------------------------------------

    def _judge_tasks(self) -> None:
        numbers = Counter(row["context"]["n"] for row in self._runs.values())
        for n in range(self._tasks):
            self.violations.check(numbers[n] == 1, "a task was not created exactly once", f"n={n}: {numbers[n]}")
        for task, row in self._runs.items():
            if row["finished_at"] is None:
                self.violations.add("a task did not end", row)
                continue
            self.figures.tasks += 1
            self.violations.check(row["finalized_at"] is not None, "a task was not finalized", row)
            wanted = "complete" if self._states[task] == {"complete"} else "error"
            self.violations.check(row["state"] == wanted, "a task ended otherwise than its steps say", row)

    # -- effects --------------------------------------------------------------------------------------------------

    def _judge_effects(self) -> None:
        self._begun: Counter[tuple[str, str, int]] = Counter()
        self._ended: Counter[tuple[str, str, int]] = Counter()
        self._hooks: Counter[tuple[str, str, int]] = Counter()
        book = {"begin": self._begun, "end": self._ended, "hook": self._hooks}
        for effect in self._effects:
            book[effect.what][effect.task, effect.step, effect.fence] += 1
        self.figures.effects = self._begun.total()
        starts = {
            (*key, row["fence"])
            for key, rows in self._history.items()
            for row in rows
            if row["to_state"] == "in_progress"
        }
        for run, times in self._begun.items():
            self.violations.check(run in starts, "a handler ran without a claim", run)
            self.violations.check(times == 1, "a handler ran twice under one claim", (run, times))
        runs = Counter((task, step) for task, step, _ in self._begun.elements())
        for key, times in runs.items():
            if key in self._steps and not self._steps[key]["retryable"]:
                self.violations.check(times == 1, "a step ran twice that must not", (key, times))

    # -- steps ----------------------------------------------------------------------------------------------------

    def _judge_step(self, key: StepKey, step: Mapping[str, Any], history: list[dict[str, Any]]) -> None:
        starts = [row for row in history if row["to_state"] == "in_progress"]
        exits = [row for row in history if row["from_state"] == "in_progress"]
        back = [row for row in exits if row["to_state"] == _GIVEN_BACK]
        lost = sum(row["reason"] == "executor_lost" for row in exits)
        # These may have been lost, or left behind by an executor that said goodbye, which is no loss.
        perhaps_lost = sum(row["reason"] in ("poison", "outcome_unknown") for row in exits)
        story = (
            key,
            dict(step),
            [(row["fence"], row["from_state"], row["to_state"], row["reason"]) for row in history],
        )
        check = self.violations.check

        self.figures.starts += len(starts)
        self.figures.steps += bool(starts)
        self.figures.losses += step["losses"]
        self.figures.requeued.update(row["reason"] for row in back)

        check(
            [row["fence"] for row in starts] == [*range(1, step["fence"] + 1)], "fences do not count the starts", story
        )
        check([row["fence"] for row in starts] == [row["fence"] for row in exits], "a start without one end", story)
        check(step["attempts"] == len(starts) - len(back), "attempts do not add up", story)
        check(lost <= step["losses"] <= lost + perhaps_lost, "losses do not add up", story)
        check(sum(row["to_state"] in _ENDS for row in history) <= 1, "a step ended twice", story)
        self._judge_end(key, step, exits, story)
        for parent in self._parents[key]:
            self._judge_order(key, starts, parent)
        taken = {row["fence"] for row in exits if row["to_state"] != _GIVEN_BACK}
        self.figures.unreported += sum(
            (*key, row["fence"]) in self._ended for row in starts if row["fence"] not in taken
        )

    def _judge_end(self, key: StepKey, step: Mapping[str, Any], exits: list[dict[str, Any]], story: object) -> None:
        check = self.violations.check
        if step["state"] == "complete":
            fence, results = step["fence"], step["results"]
            check(exits and exits[-1]["to_state"] == "complete", "a step is complete without a word of it", story)
            check(results["fence"] == fence, "a result was taken from another run", story)
            check((*key, fence) in self._ended, "a result was taken of a handler that did not return", story)
            parents = {parent[1]: self._steps[parent]["results"] for parent in self._parents[key]}
            if not all(parents.values()):
                self.violations.add("a step is complete before its parents", story)
                return
            wanted = shapes.value_of(self._runs[key[0]]["context"]["n"], parents)
            check(results["value"] == wanted, "a wrong value", story)
        elif step["state"] == "error":
            kind = step["error"]["type"]
            self.figures.errors[kind] += 1
            explained = {
                "PermanentError": key[1] == "refuse",
                "Refused": key[1] == "refuse",
                "poison": step["losses"] >= _MAX_LOSSES,
                "outcome_unknown": not step["retryable"],
            }.get(kind, False)
            check(explained, "a step failed without a reason", story)
        else:
            blocked = "error" in self._states[key[0]]
            check(step["state"] == "pending" and blocked, "a step did not end", story)

    def _judge_order(self, key: StepKey, starts: list[dict[str, Any]], parent: StepKey) -> None:
        done = [row["at"] for row in self._history.get(parent, []) if row["to_state"] == "complete"]
        for start in starts[:1]:
            self.violations.check(
                done and done[0] <= start["at"], "a step was started before its parents were complete", (key, parent)
            )

    def _judge_hooks(self) -> None:
        told = {(task, finish_no) for task, _, finish_no in self._hooks}
        for task, row in self._runs.items():
            if row["workflow"] == "hooked" and row["state"] == "complete":
                self.violations.check((task, row["finish_no"]) in told, "a hook was not run", row)


def check_rules(core: Core, violations: Violations) -> bool:
    """Ask the checker: nothing may be broken at any moment, a storm's middle included.

    Returns:
        Whether all rules could be checked; in a storm a statement may fail.
    """
    checked = True
    for broken in core.broken_rules():
        if " cannot be checked: " in broken:
            checked = False
        else:
            violations.add(f"rule: {broken.split(':')[0]}", broken)
    return checked
