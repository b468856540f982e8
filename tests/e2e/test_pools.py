"""Each of Celery's pools, and the options that size it and replace its processes: what they do to executors."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e import pool_workflows, workflows
from tests.e2e.fixtures import MakeCluster
from tests.e2e.harness import CeleryProcess, Cluster
from tests.e2e.test_stopping import under_load
from tests.waiting import wait_until

TASKS = 40


def complete_without_loss(cluster: Cluster) -> None:
    """What ``under_load`` began ends well."""
    handles = cluster.handles  # type: ignore[attr-defined]
    assert set(cluster.wait(handles)) == {"complete"}
    assert set(cluster.losses(handles)) == {(1, 0)}


def pids(worker: CeleryProcess) -> set[int]:
    return {child.pid for child in worker.children()}


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_workflow_over_two_namespaces_runs_to_its_end_on_each_pool(cluster: Cluster, pool: str) -> None:
    cluster.register(workflows.linear)
    cluster.worker("-Q", "e2e,e2e_other", "-P", pool, "-c", "2")
    handles = cluster.start(workflows.linear, *({"n": n} for n in range(TASKS)))
    assert set(cluster.wait(handles)) == {"complete"}
    assert [handle.results["fourth"]["value"] for handle in handles] == [(n + 1) * 2 - 1 for n in range(TASKS)]
    assert set(cluster.losses(handles)) == {(1, 0)}


@pytest.mark.parametrize(
    ("pool", "seconds", "interrupted"),
    [
        pytest.param("prefork", 30, True, marks=pytest.mark.long),
        ("threads", 2, False),
        pytest.param("solo", 30, True, marks=pytest.mark.long),
    ],
)
def test_a_timeout_ends_the_step_on_each_pool_and_a_blocking_call_where_signals_arrive(
    make_cluster: MakeCluster, pool: str, seconds: float, interrupted: bool
) -> None:
    cluster = make_cluster(TASKER_ENGINE__HANDLER_MODULES="tests.e2e.pool_workflows")
    cluster.register(pool_workflows.sleepy)
    cluster.worker("-Q", "e2e", "-P", pool, "-c", "1")
    told = cluster.folder / "told"
    handles = cluster.start(pool_workflows.sleepy, {"seconds": seconds, "told": str(told)})
    assert cluster.wait(handles) == ["error"]
    (letter,) = cluster.rows("SELECT snapshot FROM tasker.dead_letters WHERE kind = 'step'")
    assert "timeout" in str(letter["snapshot"])
    wait_until(lambda: told.exists() and told.read_text(), "the handler was left")
    assert (float(told.read_text()) < seconds) == interrupted


# -- replacing processes --------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_process_that_reached_its_tasks_is_replaced_between_two_runs_of_executors_and_nothing_is_lost(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(TASKER_ORCHESTRATION__EXECUTOR_LIFETIME_SECONDS="0.5")
    worker = under_load(cluster, "-P", "prefork", "-c", "2", "--max-tasks-per-child", "1")
    seen = pids(worker)
    wait_until(lambda: seen.update(pids(worker)) or len(seen) > 4, "processes were replaced")
    complete_without_loss(cluster)
    assert "without a word" not in worker.log


def test_a_process_that_uses_more_memory_than_it_may_is_replaced_long_before_its_executor_has_lived(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(
        TASKER_ENGINE__HANDLER_MODULES="tests.e2e.pool_workflows",
        TASKER_ORCHESTRATION__EXECUTOR_LIFETIME_SECONDS="3600",
    )
    cluster.register(pool_workflows.hungry)
    worker = cluster.worker("-Q", "e2e", "-P", "prefork", "-c", "1", "--max-memory-per-child", "250000")
    (before,) = cluster.wait_for_executors(1)
    handles = cluster.start(pool_workflows.hungry, {"megabytes": 300})
    assert cluster.wait(handles) == ["complete"]
    wait_until(lambda: before["pid"] not in pids(worker), "the process was replaced")
    wait_until(lambda: [one for one in cluster.executors() if one["pid"] != before["pid"]], "another executor runs")
    assert set(cluster.losses(handles)) == {(1, 0)}


@pytest.mark.long
def test_restarting_the_pool_replaces_the_processes_of_executors_too_and_nothing_is_lost(cluster: Cluster) -> None:
    (cluster.folder / "celeryconfig.py").write_text("worker_pool_restarts = True\n")
    worker = under_load(cluster, "-P", "prefork", "-c", "2")
    before = pids(worker)
    assert len(before) == 3
    (answer,) = cluster.app.control.broadcast("pool_restart", reply=True, timeout=10)
    assert "ok" in next(iter(answer.values()))
    wait_until(lambda: not before & pids(worker), "all processes were replaced")
    cluster.wait_for_executors(2)
    complete_without_loss(cluster)


def test_limits_of_time_and_rate_mean_ordinary_tasks_and_touch_no_step(cluster: Cluster) -> None:
    (cluster.folder / "celeryconfig.py").write_text(
        "task_soft_time_limit = 1\n"
        "task_time_limit = 2\n"
        "task_default_rate_limit = '1/h'\n"
        "task_annotations = {'*': {'time_limit': 2, 'acks_late': False, 'rate_limit': '1/h'}}\n"
    )
    cluster.register(workflows.paced)
    cluster.worker("-Q", "e2e", "-P", "prefork", "-c", "1")
    handles = cluster.start(workflows.paced, {"n": 1, "seconds": 2.5})
    assert cluster.wait(handles) == ["complete"]
    assert cluster.losses(handles) == [(1, 0)] * 2
    (stats,) = cluster.app.control.broadcast("tasker_stats", reply=True, timeout=10, limit=1)
    assert stats["w1@test"]["executors"] == {"started": 1, "ended": 0, "lost": 0}


# -- sizes ----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_executors_follow_a_pool_that_is_grown_and_shrunk_and_nothing_is_lost(cluster: Cluster) -> None:
    worker = under_load(cluster, "-P", "prefork", "-c", "2")
    control = cluster.app.control

    def ok(answers: list[dict[str, dict[str, Any]]]) -> None:
        assert "ok" in answers[0]["w1@test"], answers

    ok(control.pool_grow(2, reply=True, timeout=10))
    cluster.wait_for_executors(4)
    # One process does nothing; the others go when their executors have ended.
    ok(control.pool_shrink(3, reply=True, timeout=10))
    cluster.wait_for_executors(1)
    wait_until(lambda: len(worker.children()) == 2, "one and a spare one")
    complete_without_loss(cluster)


@pytest.mark.long
def test_executors_follow_the_fewest_slots_of_an_autoscaling_worker(cluster: Cluster) -> None:
    cluster.register(workflows.paced)
    cluster.worker("-Q", "e2e", "-P", "prefork", "--autoscale", "4,1")
    cluster.wait_for_executors(1)
    cluster.app.control.autoscale(8, 4)
    cluster.wait_for_executors(3)
    cluster.app.control.autoscale(8, 2)
    cluster.wait_for_executors(1)


def test_prefetch_counts_ordinary_tasks_alone(cluster: Cluster) -> None:
    (cluster.folder / "celeryconfig.py").write_text("worker_prefetch_multiplier = 2\n")
    cluster.register(workflows.paced)
    cluster.worker("-Q", "e2e", "-P", "threads", "-c", "2")
    cluster.wait_for_executors(2)
    stats = wait_until(lambda: cluster.app.control.inspect(timeout=5).stats(), "the worker answers")
    # Two slots and the spare one; the executors that run take nothing of it.
    assert stats["w1@test"]["prefetch_count"] == 6
