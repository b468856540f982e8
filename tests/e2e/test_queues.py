"""Which queues a worker serves, plain Celery tasks beside steps, and steps that are Celery tasks."""

from __future__ import annotations

import re

import pytest

from tasker import Retry, workflow
from tests.e2e import workflows
from tests.e2e.harness import Cluster
from tests.waiting import wait_until


def test_a_worker_without_queues_serves_all_of_them_and_those_that_come_later(cluster: Cluster) -> None:
    worker = cluster.worker("-P", "threads", "-c", "4")
    cluster.wait_for_executors(4, "task_claimer")
    cluster.register(workflows.linear)
    worker.wait_for_log("Started consuming from e2e_other")
    cluster.wait_for_executors(3, "step_executor")
    # One slot in four goes on with orchestration.
    cluster.wait_for_executors(1, "task_claimer")
    handles = cluster.start(workflows.linear, {"n": 1})
    assert cluster.wait(handles) == ["complete"]
    # What it is told to cancel it does not take up again by itself.
    cluster.app.control.cancel_consumer("e2e_other", reply=True, timeout=5)
    wait_until(
        lambda: {queue for one in cluster.executors() for queue in one["queues"]} == {"e2e_queue"},
        "steps of one namespace are left to others",
    )
    later = workflow("e2e_third", "later", version="1.0.0")
    later.celery_step("one", task="somebody.else")
    cluster.register(later)
    worker.wait_for_log("Started consuming from e2e_third")
    assert len(re.findall("Started consuming from e2e_other", worker.log)) == 1


def test_a_named_queue_gets_its_executors_when_it_becomes_a_namespace(cluster: Cluster) -> None:
    cluster.worker("-Q", "e2e,e2e_other", "-P", "prefork", "-c", "2")
    assert cluster.executors() == []
    cluster.register(workflows.linear)
    cluster.wait_for_executors(1)  # the other of its two slots is the spare one
    handles = cluster.start(workflows.linear, {"n": 1})
    assert cluster.wait(handles) == ["complete"]


@pytest.mark.parametrize(("amount", "state"), [(5, "complete"), (0, "error")])
def test_a_step_that_is_a_celery_task_runs_on_a_celery_worker(cluster: Cluster, amount: int, state: str) -> None:
    cluster.register(workflows.charge)
    cluster.worker("-P", "threads", "-c", "2", "-Q", "e2e,orchestration", name="tasker")
    cards = cluster.worker("-P", "solo", "-Q", "cards", "-I", "tests.e2e.celery_tasks", name="cards")
    (handle,) = cluster.start(workflows.charge, {"amount": amount, "who": "ada"})
    assert cluster.wait([handle]) == [state]
    if state == "complete":
        assert handle.results["thank"] == {"receipt": "ada:5"}
        cards.wait_for_log(r"charge_card\[[-0-9a-f]+:1\] succeeded")
    else:
        (row,) = cluster.rows(
            "SELECT error FROM tasker.workflow_steps WHERE task_uuid = %s AND state = 'error'", handle.task_uuid
        )
        assert (row["error"]["type"], row["error"]["message"]) == ("ValueError", "cannot charge 0")


def test_a_step_that_is_a_celery_task_is_revoked_when_its_workflow_is_cancelled(cluster: Cluster) -> None:
    cluster.register(workflows.charge)
    cluster.worker("-P", "threads", "-c", "2", "-Q", "e2e,orchestration", name="tasker")
    cards = cluster.worker("-P", "prefork", "-c", "1", "-Q", "cards", "-I", "tests.e2e.celery_tasks", name="cards")
    gate = cluster.folder / "gate"
    cluster.send("tests.e2e.celery_tasks.wait_for_file", str(gate), queue="cards")
    (handle,) = cluster.start(workflows.charge, {"amount": 5, "who": "ada"})
    cards.wait_for_log(r"charge_card\[[-0-9a-f]+:1\] received")
    cluster.client.cancel(handle.task_uuid)
    cards.wait_for_log(r"Tasks flagged as revoked: [-0-9a-f]+:1")
    gate.touch()
    cards.wait_for_log(r"Discarding revoked task: tests\.e2e\.celery_tasks\.charge_card")
    assert handle.state == "cancelled"


def test_the_worker_tells_of_a_process_that_was_killed_in_a_celery_task_and_goes_on(cluster: Cluster) -> None:
    flow = workflow("e2e", "killed", version="1.0.0")
    flow.celery_step(
        "die",
        task="tests.e2e.celery_tasks.die_once",
        args=[str(cluster.folder)],
        queue="cards",
        timeout_seconds=60,
        retry=Retry(max_attempts=2, backoff="none"),
    )
    cluster.register(flow)
    cluster.worker("-P", "threads", "-c", "2", "-Q", "e2e,orchestration", name="tasker")
    cards = cluster.worker("-P", "prefork", "-c", "1", "-Q", "cards", "-I", "tests.e2e.celery_tasks", name="cards")
    (handle,) = cluster.start(flow, {})
    handle.wait(30)
    assert handle.results == {"die": "lived"}
    reasons = cluster.rows("SELECT reason FROM tasker.workflow_step_transitions WHERE to_state = 'waiting_for_retry'")
    assert len(reasons) == 1
    assert "WorkerLostError" in cards.log
    assert "raised an exception" not in cards.log  # of the callback in the main process


def test_a_program_that_has_only_celery_starts_a_workflow_once_per_key_or_message(cluster: Cluster) -> None:
    cluster.register(workflows.linear)
    worker = cluster.worker("-P", "threads", "-c", "2")
    for key in (None, "four", "four"):
        cluster.send("tasker.create", "e2e", "linear", {"n": 4}, identity_key=key, queue="orchestration")
    worker.wait_for_log(r"tasker\.create\[[-0-9a-f]+\] succeeded", times=3)
    rows = cluster.rows("SELECT task_uuid, initiator FROM tasker.tasks")
    assert len(rows) == 2
    for row in rows:
        assert "@" in row["initiator"]  # who sent the message
        assert cluster.client.wait(row["task_uuid"], timeout=30).state == "complete"


def test_a_pool_that_could_not_be_told_to_stop_is_refused(cluster: Cluster) -> None:
    cluster.register(workflows.linear)
    worker = cluster.worker("-Q", "e2e", "--pool-start-method", "spawn", ready=False)
    assert worker.wait() == 1
    assert "spawned ones inherit neither the flag nor the pipe" in worker.log
    assert "Traceback" not in worker.log


def test_a_worker_of_plain_queues_alone_may_have_any_pool(cluster: Cluster) -> None:
    worker = cluster.worker("-Q", "plain", "--pool-start-method", "spawn", "-c", "1", "-I", "tests.e2e.celery_tasks")
    cluster.send("tests.e2e.celery_tasks.echo", 1, queue="plain")
    worker.wait_for_log(r"celery_tasks\.echo\[[-0-9a-f]+\] succeeded")
