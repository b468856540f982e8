"""Room for ordinary tasks beside executors: the spare slot, yielding, autoscaling, what inspect shows."""

from __future__ import annotations

import pytest

from tests.e2e import workflows
from tests.e2e.fixtures import MakeCluster
from tests.e2e.harness import Cluster
from tests.waiting import wait_until

TASKS = "tests.e2e.celery_tasks"
ECHOED = r"celery_tasks\.echo\[[-0-9a-f]+\] succeeded"
ENDED = r"tasker\.run_executors\[[-0-9a-f]+\] succeeded"


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.long)])
def test_an_ordinary_task_finds_a_slot_while_every_executor_is_busy(cluster: Cluster, pool: str) -> None:
    cluster.register(workflows.paced)
    worker = cluster.worker("-Q", "e2e,plain", "-P", pool, "-c", "1", "-I", TASKS)
    gate = cluster.folder / "gate"
    handles = cluster.start(workflows.paced, {"n": 1, "gate": str(gate)})
    wait_until((cluster.folder / "gate.reached").exists, "the only executor is busy")
    cluster.send(f"{TASKS}.echo", 1, queue="plain")
    worker.wait_for_log(ECHOED)
    gate.touch()
    assert cluster.wait(handles) == ["complete"]


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.long)])
def test_an_idle_executor_yields_its_slot_when_more_ordinary_tasks_wait_than_slots_are_free(
    cluster: Cluster, pool: str
) -> None:
    cluster.register(workflows.linear)
    worker = cluster.worker("-Q", "e2e,e2e_other,plain", "-P", pool, "-c", "1", "-I", TASKS)
    gate = cluster.folder / "gate"
    for _ in range(2):
        cluster.send(f"{TASKS}.wait_for_file", str(gate), queue="plain")
    # The spare slot is taken by the first; the second gets the executor's.
    worker.wait_for_log(r"run_executors\[[-0-9a-f]+\] succeeded in [0-9.]+s: \{'ended': 'yielded'")
    wait_until(lambda: len(cluster.active(f"{TASKS}.wait_for_file")) == 2, "both tasks run")
    gate.touch()
    # And the executor comes back.
    handles = cluster.start(workflows.linear, {"n": 1})
    assert cluster.wait(handles) == ["complete"]


def test_inspect_shows_executors_as_active_tasks_of_their_worker(cluster: Cluster) -> None:
    cluster.register(workflows.linear)
    cluster.worker("-Q", "e2e,e2e_other", "-P", "threads", "-c", "2")
    shown = wait_until(lambda: found if len(found := cluster.active("tasker.run_executors")) == 2 else None, "two")
    assert [task["args"] for task in shown] == [["step_executor", ["e2e", "e2e_other"]]] * 2


def test_an_autoscaling_worker_keeps_room_beside_its_executors(cluster: Cluster) -> None:
    cluster.register(workflows.paced)
    worker = cluster.worker("-Q", "e2e,plain", "-P", "prefork", "--autoscale", "3,1", "-I", TASKS)
    cluster.wait_for_executors(1)
    for value in range(4):
        cluster.send(f"{TASKS}.echo", value, queue="plain")
    worker.wait_for_log(ECHOED, times=4)
    handles = cluster.start(workflows.paced, {"n": 1})
    assert cluster.wait(handles) == ["complete"]


def test_an_executor_that_reaches_its_lifetime_is_followed_by_another(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(TASKER_ORCHESTRATION__EXECUTOR_LIFETIME_SECONDS="0.5")
    cluster.register(workflows.linear)
    worker = cluster.worker("-Q", "e2e,e2e_other", "-P", "prefork", "-c", "1")
    worker.wait_for_log(ENDED, times=3)
    handles = cluster.start(workflows.linear, *({"n": n} for n in range(10)))
    assert set(cluster.wait(handles)) == {"complete"}
    assert set(cluster.losses(handles)) == {(1, 0)}
