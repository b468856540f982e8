"""kill -9 of one pool process, and of a whole worker: it still ends right, and no attempt is spent."""

from __future__ import annotations

from tests.e2e import workflows
from tests.e2e.harness import Cluster
from tests.waiting import wait_until


def test_a_killed_pool_process_is_replaced_and_its_step_runs_again_as_a_loss(cluster: Cluster) -> None:
    cluster.register(workflows.paced)
    cluster.worker("-Q", "orchestration", "-P", "threads", "-c", "1", name="orchestration")
    worker = cluster.worker("-Q", "e2e", "-P", "prefork", "-c", "2", name="steps")
    cluster.wait_for_executors(2)
    gate = cluster.folder / "gate"
    handles = cluster.start(workflows.paced, {"n": 1, "gate": str(gate)})
    wait_until((cluster.folder / "gate.reached").exists, "the step runs")
    (running,) = cluster.rows("SELECT executor FROM tasker.workflow_steps WHERE state = 'in_progress'")
    pid = cluster.value("SELECT pid FROM tasker.executors WHERE executor = %s", running["executor"])
    next(child for child in worker.children() if child.pid == pid).kill()
    gate.touch()
    # The worker fills the slot at once; the step comes back when its executor counts as lost.
    wait_until(
        lambda: (
            any(executor["executor"] != running["executor"] for executor in cluster.executors())
            and len({executor["pid"] for executor in cluster.executors()} - {pid}) == 2
        ),
        "another executor took the place",
    )
    assert cluster.wait(handles) == ["complete"]
    assert sorted(cluster.losses(handles)) == [(1, 0), (1, 1)]
    assert worker.running


def test_work_of_a_killed_worker_is_done_by_another(cluster: Cluster) -> None:
    cluster.register(workflows.paced)
    cluster.worker("-Q", "orchestration", "-P", "threads", "-c", "1", name="orchestration")
    first = cluster.worker("-Q", "e2e", "-P", "prefork", "-c", "2", name="first")
    handles = cluster.start(workflows.paced, *({"n": n, "seconds": 0.02} for n in range(60)))
    wait_until(lambda: cluster.steps_in("complete") >= 10, "some steps are complete")
    children = first.children()
    first.kill_all()
    wait_until(lambda: not any(child.is_running() for child in children), "its pool died with it")
    cluster.worker("-Q", "e2e", "-P", "prefork", "-c", "2", name="second")
    assert set(cluster.wait(handles)) == {"complete"}
    assert {attempts for attempts, _ in cluster.losses(handles)} == {1}
    assert [handle.results["end"]["value"] for handle in handles] == [n + 1 for n in range(60)]


def test_a_killed_orchestration_worker_is_replaced_by_the_next(cluster: Cluster) -> None:
    cluster.register(workflows.linear)
    cluster.worker("-Q", "e2e,e2e_other", "-P", "threads", "-c", "2", name="steps")
    cluster.worker("-Q", "orchestration", "-P", "threads", "-c", "2", name="first").kill_all()
    cluster.worker("-Q", "orchestration", "-P", "threads", "-c", "2", name="second")
    cluster.send("tasker.create", "e2e", "linear", {"n": 4}, queue="orchestration")
    (row,) = wait_until(lambda: cluster.rows("SELECT task_uuid FROM tasker.tasks"), "the task was created")
    assert cluster.client.wait(row["task_uuid"], timeout=30).state == "complete"
