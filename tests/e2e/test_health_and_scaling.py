"""Executors that stall and are replaced, workers that grow and shrink, a system that says when it starts and ends."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tasker.coordinator.health import read_health
from tests.e2e import pool_workflows, workflows
from tests.e2e.fixtures import MakeCluster
from tests.e2e.harness import Cluster
from tests.waiting import wait_until

QUICK = {
    "TASKER_ORCHESTRATION__HEALTH_CHECK_INTERVAL_SECONDS": "0.5",
    "TASKER_ORCHESTRATION__HEARTBEAT_INTERVAL_SECONDS": "0.2",
    "TASKER_ORCHESTRATION__EXECUTOR_LEASE_SECONDS": "20",
    "TASKER_EXECUTOR_POOLS__STEP_EXECUTOR__MAX_POLLING_INTERVAL_MS": "200",
}
"""A step executor has stalled after 1.5 s."""

SCALING = {
    "TASKER_ORCHESTRATION__HEALTH_CHECK_INTERVAL_SECONDS": "0.5",
    "TASKER_ORCHESTRATION__SCALING_INTERVAL_SECONDS": "0.5",
    "TASKER_ORCHESTRATION__SCALING_COOLDOWN_SECONDS": "0.5",
    "TASKER_ORCHESTRATION__SCALING_BACKLOG_PER_EXECUTOR": "10",
    "TASKER_ORCHESTRATION__MAX_WORKER_SLOTS": "3",
}


def states(cluster: Cluster) -> list[str]:
    rows = cluster.rows("SELECT to_state FROM tasker.operational_state_transitions ORDER BY at")
    return [row["to_state"] for row in rows]


def test_a_thread_that_never_comes_back_is_found_and_replaced(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(**QUICK, TASKER_ENGINE__HANDLER_MODULES="tests.e2e.pool_workflows,tests.e2e.workflows")
    cluster.register(pool_workflows.stubborn, workflows.paced)
    cluster.worker("-Q", "orchestration", "-P", "threads", "-c", "1")
    cluster.worker("-Q", "e2e", "-P", "prefork", "-c", "1")
    (before,) = cluster.wait_for_executors(1)
    (stuck,) = cluster.start(pool_workflows.stubborn, {})
    assert cluster.wait([stuck]) == ["error"]  # by its timeout; its thread does not heed that
    later = cluster.start(workflows.paced, {"n": 1})
    assert cluster.wait(later) == ["complete"]
    transitions = cluster.rows(
        "SELECT to_health, reason FROM tasker.executor_health_transitions WHERE executor = %s ORDER BY at",
        before["executor"],
    )
    assert {"to_health": "unhealthy", "reason": "no poll while messages wait"} in transitions


def test_a_child_that_is_stopped_in_its_tracks_is_degraded_then_unhealthy_and_healthy_when_it_goes_on(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(**QUICK)
    cluster.register(workflows.paced)
    cluster.worker("-Q", "orchestration", "-P", "threads", "-c", "1")
    cluster.worker("-Q", "e2e", "-P", "prefork", "-c", "1")
    (executor,) = cluster.wait_for_executors(1)

    def health() -> Any:
        return cluster.value("SELECT health FROM tasker.executors WHERE executor = %s", executor["executor"])

    wait_until(lambda: health() == "healthy", "it polls")
    os.kill(executor["pid"], signal.SIGSTOP)
    try:
        wait_until(lambda: health() == "unhealthy", "its silence is seen")
        handles = cluster.start(workflows.paced, {"n": 1})
        found = read_health(cluster.database, cluster.settings)
        assert found.pools["step_executor"].unhealthy == 1
        assert "unhealthy: 1 of step_executor" in found.components["pools"].message
    finally:
        os.kill(executor["pid"], signal.SIGCONT)
    assert cluster.wait(handles) == ["complete"]
    wait_until(lambda: health() in ("healthy", None), "it is well again, or another one has its place")


def test_a_worker_grows_with_its_backlog_and_shrinks_again_and_no_step_loses_an_attempt(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(**SCALING)
    cluster.register(workflows.paced)
    cluster.worker("-Q", "orchestration", "-P", "threads", "-c", "1")
    worker = cluster.worker("-Q", "e2e", "-P", "prefork", "-c", "1")
    cluster.wait_for_executors(1)
    # As much as lasts until processes have started on a machine that is busy with other things.
    handles = cluster.start(workflows.paced, *({"n": n, "seconds": 0.05} for n in range(350)))
    cluster.wait_for_executors(3)
    assert len(worker.children()) == 4  # with the spare one
    assert set(cluster.wait(handles)) == {"complete"}
    wait_until(lambda: len(cluster.executors()) == 1, "it shrinks")
    wait_until(lambda: len(worker.children()) == 2, "processes that are too many go")
    assert set(cluster.losses(handles)) == {(1, 0)}
    decided = cluster.rows("SELECT direction, reason, queue FROM tasker.scaling_decisions ORDER BY id")
    assert {row["direction"] for row in decided if row["queue"] == "e2e_queue"} == {"up", "down"}
    after = cluster.start(workflows.paced, *({"n": n} for n in range(5)))
    assert set(cluster.wait(after)) == {"complete"}


@pytest.mark.long
def test_an_autoscaling_worker_is_sent_executors_and_they_go_when_they_are_too_many(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(**SCALING)
    cluster.register(workflows.paced)
    cluster.worker("-Q", "orchestration", "-P", "threads", "-c", "1")
    cluster.worker("-Q", "e2e", "-P", "prefork", "--autoscale", "3,1")
    cluster.wait_for_executors(1)
    handles = cluster.start(workflows.paced, *({"n": n, "seconds": 0.05} for n in range(150)))
    wait_until(lambda: cluster.value("SELECT count(*) FROM tasker.executors WHERE requested") > 0, "one was asked for")
    assert set(cluster.wait(handles)) == {"complete"}
    wait_until(lambda: cluster.value("SELECT count(*) FROM tasker.executors WHERE requested") == 0, "they go")
    assert set(cluster.losses(handles)) == {(1, 0)}


def test_the_system_says_when_it_starts_works_and_ends(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(**QUICK)
    first = cluster.worker("-Q", "orchestration", "-P", "threads", "-c", "1")
    second = cluster.worker("-Q", "orchestration", "-P", "threads", "-c", "1")
    wait_until(lambda: states(cluster) == ["normal"], "it works")
    wait_until(lambda: cluster.value("SELECT count(*) FROM tasker.workers") == 2, "both are registered")
    assert first.terminate() == 0
    assert states(cluster) == ["normal"]  # a rolling restart is no end
    cluster.app.control.shutdown(destination=["w2@test"])
    second.wait()
    assert states(cluster) == ["normal", "graceful_shutdown", "stopped"]
    cluster.worker("-Q", "orchestration", "-P", "threads", "-c", "1")
    wait_until(lambda: states(cluster)[3:] == ["startup", "normal"], "it begins anew")
    cluster.app.control.broadcast("tasker_drain")
    wait_until(lambda: states(cluster)[5:] == ["graceful_shutdown"], "all workers are drained")
    cluster.app.control.broadcast("tasker_drain", arguments={"resume": True})
    wait_until(lambda: states(cluster)[6:] == ["startup", "normal"], "the drain is called off")
