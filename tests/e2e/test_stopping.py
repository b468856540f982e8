"""Stopping workers under load: whatever way, they end, and no step loses an attempt by it."""

from __future__ import annotations

import os
import signal

import pytest

from tests.e2e import workflows
from tests.e2e.harness import CeleryProcess, Cluster
from tests.waiting import wait_until

TASKS = 80
STEP_SECONDS = 0.03


def under_load(cluster: Cluster, *arguments: str) -> CeleryProcess:
    """A worker in the middle of the work that ``finish`` ends."""
    cluster.register(workflows.paced)
    worker = cluster.worker("-Q", "e2e", *arguments)
    cluster.handles = cluster.start(  # type: ignore[attr-defined]
        workflows.paced, *({"n": n, "seconds": STEP_SECONDS} for n in range(TASKS))
    )
    wait_until(lambda: cluster.steps_in("complete") >= 10, "some steps are complete")
    assert cluster.steps_in("complete") < 2 * TASKS
    return worker


def finish(cluster: Cluster) -> None:
    """Nothing is held by anybody; another worker does the rest, and every step has run once."""
    assert cluster.steps_in("in_progress") == 0
    assert cluster.rows("SELECT * FROM tasker.step_claims") == []
    assert cluster.executors() == []
    assert cluster.rows("SELECT * FROM tasker.workers") == []
    cluster.worker("-Q", "e2e", "-P", "threads", "-c", "2")
    handles = cluster.handles  # type: ignore[attr-defined]
    assert set(cluster.wait(handles)) == {"complete"}
    assert set(cluster.losses(handles)) == {(1, 0)}


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_sigterm_under_load_ends_the_worker_and_no_attempt_is_lost(cluster: Cluster, pool: str) -> None:
    worker = under_load(cluster, "-P", pool, "-c", "2")
    sent_at = worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    print(f"{pool}: {worker.ended_at - sent_at:.2f} s from SIGTERM to exit")  # pytest -s shows it
    finish(cluster)


def test_control_shutdown_under_load_ends_the_worker_and_no_attempt_is_lost(cluster: Cluster) -> None:
    worker = under_load(cluster, "-P", "prefork", "-c", "2")
    cluster.app.control.shutdown()
    assert worker.wait() == 0
    finish(cluster)


def test_sigterm_to_every_process_of_the_worker_ends_it_and_no_attempt_is_lost(cluster: Cluster) -> None:
    worker = under_load(cluster, "-P", "prefork", "-c", "2")
    os.killpg(worker.pid, signal.SIGTERM)
    worker.wait()
    finish(cluster)


def test_a_cold_shutdown_under_load_gives_back_what_it_held(cluster: Cluster) -> None:
    worker = under_load(cluster, "-P", "prefork", "-c", "2")
    worker.signal(signal.SIGQUIT)
    worker.wait()
    cluster.worker("-Q", "e2e,orchestration", "-P", "threads", "-c", "2")
    handles = cluster.handles  # type: ignore[attr-defined]
    assert set(cluster.wait(handles)) == {"complete"}
    # A step that ran may have been lost with its process; then that is a loss, and no attempt.
    assert {attempts for attempts, _ in cluster.losses(handles)} == {1}


def test_a_soft_shutdown_does_not_let_executors_work_through_its_sleep(cluster: Cluster) -> None:
    (cluster.folder / "celeryconfig.py").write_text("worker_soft_shutdown_timeout = 3\n")
    worker = under_load(cluster, "-P", "prefork", "-c", "2")
    worker.signal(signal.SIGQUIT)
    worker.wait_for_log("Initiating Soft Shutdown")
    wait_until(lambda: cluster.executors() == [], "the executors said good-bye")
    assert worker.running
    assert cluster.steps_in("complete") < 2 * TASKS
    worker.wait()
    assert cluster.steps_in("in_progress") == 0
