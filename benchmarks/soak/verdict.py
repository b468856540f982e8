"""Whether a soak lost anything, and whether what its tables say is legal."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.engines.tasker_setup import environment

# The history outlives the tasks: it holds the beginning and the end of those, too, that were pruned.
_TALLY = """
    WITH k AS (
        SELECT task_uuid, bool_or(reason = 'created') AS created,
               max(to_state) FILTER (WHERE to_state IN ('complete', 'error', 'cancelled')) AS ended_as
        FROM tasker.task_transitions GROUP BY task_uuid)
    SELECT count(*) FILTER (WHERE k.created) AS created,
           count(*) FILTER (WHERE k.ended_as IS NULL) AS never_ended,
           count(*) FILTER (WHERE t.task_uuid IS NOT NULL AND t.finalized_at IS NOT NULL) AS finished,
           count(*) FILTER (WHERE t.task_uuid IS NOT NULL AND t.finalized_at IS NULL) AS open,
           count(*) FILTER (WHERE t.task_uuid IS NULL) AS pruned,
           count(*) FILTER (WHERE t.task_uuid IS NULL AND k.ended_as IS NULL) AS vanished,
           count(*) FILTER (WHERE k.ended_as = 'complete') AS complete,
           count(*) FILTER (WHERE k.ended_as = 'error') AS error
    FROM k LEFT JOIN tasker.tasks AS t USING (task_uuid)
"""
_GIVEN_BACK = """
    SELECT reason, count(*) FROM tasker.workflow_step_transitions
    WHERE from_state = 'in_progress' AND to_state = 'enqueued' GROUP BY reason ORDER BY reason
"""


@dataclass
class Verdict:
    """What was found once the last task should have ended.

    Attributes:
        tally: tasks, by what became of them: created, never_ended, finished (and still there), open, pruned, vanished
            (gone without an end), complete, error.
        given_back: runs of steps that were taken back from executors, by reason; none of them is a loss.
        verify: what ``tasker db verify`` says.
        violations: what may not be.
    """

    tally: dict[str, int]
    given_back: dict[str, int]
    verify: dict[str, Any]
    violations: list[str] = field(default_factory=list)

    def check(self, holds: object, violation: str) -> None:
        """Note a violation unless ``holds``."""
        if not holds:
            self.violations.append(violation)


def judge(url: str, created: Mapping[str, int], refused: Mapping[str, int]) -> Verdict:
    """Hold the tables against what was created.

    Args:
        url: the database.
        created: how many tasks, by the state in which they have to end.
        refused: calls that raised, by error: each of them may have created a task all the same.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            row = cursor.execute(_TALLY.encode()).fetchone()
        assert row is not None
        tally = {name: int(count) for name, count in row.items()}
        given_back = {str(reason): int(count) for reason, count in connection.execute(_GIVEN_BACK.encode())}
    code, report = verify(url)
    verdict = Verdict(tally, given_back, report)
    least, unsure = sum(created.values()), sum(refused.values())
    verdict.check(
        least <= tally["created"] <= least + unsure, f"{least} tasks were created, the history has {tally['created']}"
    )
    verdict.check(
        tally["created"] == tally["finished"] + tally["pruned"],
        f"created {tally['created']}, but finished {tally['finished']} and pruned {tally['pruned']}",
    )
    for name, says in (
        ("never_ended", "tasks did not end"),
        ("open", "tasks are not final"),
        ("vanished", "tasks are gone that had not ended"),
    ):
        verdict.check(not tally[name], f"{tally[name]} {says}")
    for state in ("complete", "error"):
        wanted = created.get(state, 0)
        verdict.check(
            wanted <= tally[state] <= wanted + unsure, f"{wanted} tasks had to end as {state}, {tally[state]} did"
        )
    verdict.check(not unsure, f"creating was refused: {dict(refused)}")
    verdict.check(code == 0, f"tasker db verify ended with {code}: {report}")
    return verdict


def verify(url: str) -> tuple[int, dict[str, Any]]:
    """Run ``tasker db verify``; its exit code, and what it says."""
    program = Path(sys.executable).with_name("tasker")
    done = subprocess.run(
        [program, "db", "verify", "--json"], env=environment(url), capture_output=True, text=True, check=False
    )
    try:
        says = json.loads(done.stdout)
    except json.JSONDecodeError:
        return done.returncode or 2, {"said": (done.stdout + done.stderr)[-2000:]}
    kept = ("is_legal", "seconds", "findings", "unchecked")
    return done.returncode, {name: says[name] for name in kept if name in says}
