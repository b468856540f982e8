"""Asking and telling workers about their executors: Celery's inspect and control, and the commands over them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e import workflows
from tests.e2e.harness import CeleryProcess, Cluster
from tests.waiting import wait_until

TASKS = "tests.e2e.celery_tasks"
POOLS = pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.long), "solo"])


def ask(cluster: Cluster, command: str, **arguments: Any) -> Any:
    """The answer of the one worker."""

    def answer() -> Any:
        replies = cluster.app.control.broadcast(command, arguments=arguments, reply=True, timeout=5, limit=1)
        return replies[0]["w@test"] if replies else None

    return wait_until(lambda: [found] if (found := answer()) is not None else None, f"an answer to {command}")[0]


def run(cluster: Cluster, *arguments: str, program: str = "tasker") -> subprocess.CompletedProcess[str]:
    """A command as people type it."""
    source = {
        "tasker": "from tasker.cli import main; main()",
        "celery": "import sys; from celery.bin.celery import main; sys.exit(main())",
    }[program]
    return subprocess.run(
        [sys.executable, "-c", source, *arguments],
        cwd=cluster.folder,
        env=cluster.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def started_worker(cluster: Cluster, pool: str, *arguments: str) -> CeleryProcess:
    cluster.register(workflows.linear, workflows.paced, workflows.hopeless)
    return cluster.worker("-Q", "e2e,e2e_other,plain", "-P", pool, "-c", "1", "-I", TASKS, *arguments, name="w")


@POOLS
def test_executors_tell_what_they_run_and_what_they_have_done_without_being_asked(cluster: Cluster, pool: str) -> None:
    worker = started_worker(cluster, pool)
    handles = [*cluster.start(workflows.linear, *({"n": n} for n in range(5))), *cluster.start(workflows.hopeless, {})]
    cluster.wait(handles)

    def counted() -> Any:
        (executor,) = ask(cluster, "tasker_executors")
        return executor if executor["counts"]["completed"] >= 20 else None

    executor = wait_until(counted, "the executor's counts show 20 steps")
    assert (executor["slot"], executor["kind"]) == (0, "step_executor")
    assert executor["namespaces"] == ["e2e", "e2e_other"]
    assert executor["state"] == "running"
    assert (executor["pid"] == worker.pid) == (pool != "prefork")
    assert executor["since"].endswith("+00:00")
    counts = executor["counts"]
    assert (counts["held"], counts["completed"], counts["failed"], counts["events_dropped"]) == (0, 20, 1, 0)

    stats = ask(cluster, "tasker_stats")
    spare = 0 if pool == "solo" else 1
    assert (stats["pool"], stats["slots"], stats["executor_slots"]) == (pool, 1 + spare, 1)
    assert stats["spare_slots"] == spare
    assert stats["roles"] == [{"kind": "step_executor", "namespaces": ["e2e", "e2e_other"]}]
    assert stats["executors"]["started"] >= 1
    assert (stats["executors"]["lost"], stats["yields"], stats["drained"]) == (0, 0, False)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_inspect_active_shows_says_what_an_executor_holds_while_it_is_busy(cluster: Cluster, pool: str) -> None:
    started_worker(cluster, pool)
    gate = cluster.folder / "gate"
    handles = cluster.start(workflows.paced, {"n": 1, "gate": str(gate)})
    wait_until((cluster.folder / "gate.reached").exists, "the executor is busy")
    (shown,) = cluster.active("tasker.run_executors")
    executor = shown["executor"]
    assert (executor["kind"], executor["namespaces"]) == ("step_executor", ["e2e", "e2e_other"])
    assert (executor["counts"]["held"], executor["counts"]["claimed"]) == (1, 1)
    gate.touch()
    assert cluster.wait(handles) == ["complete"]


@POOLS
def test_a_drained_worker_finishes_what_it_holds_goes_on_with_ordinary_tasks_and_hosts_again(
    cluster: Cluster, pool: str
) -> None:
    worker = started_worker(cluster, pool)
    cluster.wait_for_executors(1)
    gate = cluster.folder / "gate"
    held = cluster.start(workflows.paced, {"n": 1, "gate": str(gate)})
    wait_until((cluster.folder / "gate.reached").exists, "the executor is busy")
    if pool == "solo":  # busy with the step, it answers afterwards
        gate.touch()
    assert ask(cluster, "tasker_drain") == {"ok": "drains its executors"}
    assert ask(cluster, "tasker_drain") == {"ok": "is drained already"}
    if pool != "solo":
        assert cluster.client.get(held[0]).state == "in_progress"
    gate.touch()
    wait_until(lambda: not cluster.executors(), "the executor has ended")
    # The step that ran is done, once; what it made ready waits for others.
    assert cluster.losses(held)[0] == (1, 0)
    waiting = cluster.start(workflows.linear, {"n": 1})
    cluster.send(f"{TASKS}.echo", 1, queue="plain")
    worker.wait_for_log(r"celery_tasks\.echo\[[-0-9a-f]+\] succeeded")
    (executor,) = ask(cluster, "tasker_executors")
    assert (executor["state"], executor["pid"], executor["counts"]["held"]) == ("empty", None, 0)
    assert cluster.client.get(waiting[0]).state == "in_progress"
    assert ask(cluster, "tasker_stats")["drained"] is True

    assert ask(cluster, "tasker_drain", resume=True) == {"ok": "hosts executors again"}
    assert ask(cluster, "tasker_drain", resume=True) == {"ok": "was not drained"}
    assert cluster.wait([*held, *waiting]) == ["complete", "complete"]


def test_the_commands_ask_the_workers_and_say_so_when_none_answers(cluster: Cluster) -> None:
    nobody = run(cluster, "worker", "stats", "--timeout", "0.2")
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert "no worker answered within 0.2 s" in nobody.stderr
    assert "Hint:" in nobody.stderr

    started_worker(cluster, "threads")
    cluster.wait_for_executors(1)
    (executor,) = json.loads(run(cluster, "worker", "executors", "--json").stdout)
    assert (executor["worker"], executor["kind"], executor["counts"]["held"]) == ("w@test", "step_executor", 0)
    (stats,) = json.loads(run(cluster, "worker", "stats", "w@test", "--json").stdout)
    assert (stats["worker"], stats["pool"], stats["drained"]) == ("w@test", "threads", False)
    assert "step_executor" in run(cluster, "worker", "executors").stdout

    assert run(cluster, "drain").returncode == 2
    stranger = run(cluster, "drain", "other@test", "--timeout", "0.5")
    assert (stranger.returncode, "nothing was heard of other@test" in stranger.stderr) == (1, True)
    drained = json.loads(run(cluster, "drain", "w@test", "--json").stdout)
    assert drained == [{"worker": "w@test", "ok": True, "answer": "drains its executors"}]
    wait_until(lambda: not cluster.executors(), "the executor has ended")
    assert run(cluster, "drain", "--all", "--resume").returncode == 0
    cluster.wait_for_executors(1)

    # The same by Celery's own program, for those who know no other.
    shown = run(cluster, "-A", "tasker", "inspect", "tasker_executors", "--json", program="celery")
    assert json.loads(shown.stdout)["w@test"][0]["kind"] == "step_executor"
    assert run(cluster, "-A", "tasker", "control", "tasker_drain", program="celery").returncode == 0
    wait_until(lambda: not cluster.executors(), "the executor has ended")
    assert run(cluster, "-A", "tasker", "control", "tasker_drain", "resume", program="celery").returncode == 0
    cluster.wait_for_executors(1)
