"""Many processes at once: one winner for each claim, no join lost, none counted twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sql_kit import Core, fan

ROOT = Path(__file__).parents[2]

FINALIZE = """
import sys, json, psycopg
connection = psycopg.connect(sys.argv[1], autocommit=True)
sys.stdin.readline()
claim = "SELECT claimed, reason, already_claimed_by FROM tasker.claim_task_for_finalization(%s, %s)"
row = connection.execute(claim, (sys.argv[2], sys.argv[3])).fetchone()
print(json.dumps([sys.argv[3], *row]))
"""

RUN = """
import sys, json, time
from tests.sql_kit import Core
core = Core(sys.argv[1])
batch, continue_limit = int(sys.argv[2]), int(sys.argv[3])
worker = core.executor()
sys.stdin.readline()
accepted = busy = 0
idle_since = None
while True:
    steps = worker.claim(batch)
    while steps:
        answer = worker.complete(steps, continue_limit=continue_limit)
        said = [o["answer"] for o in answer["outcomes"]]
        assert set(said) <= {"accepted", "busy"}, said
        again = [s for s, a in zip(steps, said) if a == "busy"]
        accepted += said.count("accepted"); busy += len(again)
        for step in again:
            one = worker.complete([step], wait=True)
            assert one["outcomes"][0]["answer"] == "accepted", one["outcomes"]
            accepted += 1
            answer["steps"] += one["steps"]
        steps = answer["steps"]
        idle_since = None
    if worker.last.get("queue_empty", True):
        if core.one("SELECT NOT EXISTS (SELECT FROM tasker.tasks WHERE finished_at IS NULL)"):
            break
        time.sleep(0.002)
print(json.dumps({"accepted": accepted, "busy": busy}))
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def all_at_once(processes: list[subprocess.Popen[str]], seconds: float) -> list[object]:
    """Let every process go, and collect what each printed."""
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = []
        for process in processes:
            out, _ = process.communicate(timeout=seconds)
            assert process.returncode == 0
            answers.append(json.loads(out))
        return answers
    finally:
        for process in processes:
            process.kill()
            with process:  # waits, and closes its pipes
                pass


def test_of_fifty_finalizers_one_wins_and_forty_nine_are_told_why(core: Core) -> None:
    core.register("order", {"a": []}, has_after_work=True)
    (task,) = core.create("order")
    core.executor().run_all()
    answers = all_at_once([start(FINALIZE, core.url, task, f"f{i}") for i in range(50)], 110)
    winners = [a[0] for a in answers if a[1]]  # type: ignore[index]
    assert len(winners) == 1
    losers = [a for a in answers if not a[1]]  # type: ignore[index]
    assert [a[2:] for a in losers] == [["already_claimed", winners[0]]] * 49  # type: ignore[index]
    assert core.rows("SELECT outcome, count(*) FROM tasker.finalization_attempts GROUP BY 1 ORDER BY 1") == [
        ("already_claimed", 49),
        ("claimed", 1),
    ]


@pytest.mark.parametrize("continue_limit", ["0", "16"])
def test_eight_processes_completing_the_same_joins_lose_none_and_double_none(core: Core, continue_limit: str) -> None:
    core.register("fan", fan(8))
    tasks = 800
    for _ in range(4):
        core.create("fan", tasks // 4)
    answers = all_at_once([start(RUN, core.url, "7", continue_limit) for _ in range(8)], 110)
    assert sum(a["accepted"] for a in answers) == tasks * 10  # type: ignore[index,call-overload]
    assert core.rows("SELECT state, count(*) FROM tasker.tasks GROUP BY 1") == [("complete", tasks)]
    assert core.rows("SELECT max(attempts), min(attempts), sum(losses) FROM tasker.workflow_steps") == [(1, 1, 0)]
    completed = """SELECT count(*), count(DISTINCT (task_uuid, position))
                   FROM tasker.workflow_step_transitions WHERE to_state = 'complete'"""
    assert core.rows(completed) == [(tasks * 10, tasks * 10)]
    ended = "SELECT count(*), count(DISTINCT task_uuid) FROM tasker.task_transitions WHERE to_state = 'complete'"
    assert core.rows(ended) == [(tasks, tasks)]
    assert core.depth("shop_queue") == 0
