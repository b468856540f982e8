"""The coordinator: beats in any number, none at all, and executors that are missing."""

from __future__ import annotations

from tests.e2e import workflows
from tests.e2e.fixtures import MakeCluster
from tests.e2e.harness import Cluster
from tests.waiting import wait_until

TICKED = r"coordinator_tick\[[-0-9a-f]+\] succeeded in [0-9.]+s: \{'ticked': True"
NOT_TICKED = r"coordinator_tick\[[-0-9a-f]+\] succeeded in [0-9.]+s: \{'ticked': False"


def ticks(cluster: Cluster) -> int:
    return int(cluster.value("SELECT ticks FROM tasker.coordinator"))


def test_two_beats_make_one_tick_per_period(cluster: Cluster) -> None:
    worker = cluster.worker("-Q", "orchestration", "-P", "threads", "-c", "1")
    beats = [cluster.beat(), cluster.beat()]
    for beat in beats:
        beat.wait_for_log("Sending due task tasker-tick", times=4)
    worker.wait_for_log(TICKED, times=2)
    worker.wait_for_log(NOT_TICKED, times=2)
    # At least half a period lies between two ticks, so two beats in step make as many as one.
    (row,) = cluster.rows(
        "SELECT ticks, EXTRACT(epoch FROM last_tick_at - series_started_at)::float8 AS seconds FROM tasker.coordinator"
    )
    assert row["ticks"] <= 1 + row["seconds"] / 0.5


def test_without_any_beat_an_orchestration_worker_ticks(cluster: Cluster) -> None:
    cluster.worker("-Q", "orchestration", "-P", "threads", "-c", "1")
    wait_until(lambda: ticks(cluster) >= 2, "somebody ticked twice")


def test_missing_executors_are_asked_for_and_take_a_free_slot(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(TASKER_EXECUTOR_POOLS__STEP_EXECUTOR__MIN_EXECUTORS="2")
    cluster.register(workflows.linear)
    cluster.worker("-Q", "e2e,e2e_other", "-P", "prefork", "-c", "1", name="steps")
    cluster.wait_for_executors(1)
    cluster.worker("-Q", "orchestration", "-P", "threads", "-c", "1", name="orchestration")
    cluster.beat()
    executors = cluster.wait_for_executors(2)
    assert {executor["worker"] for executor in executors} == {"steps@test"}
    # The message is acknowledged while its executor runs: it must not come again.
    wait_until(lambda: cluster.value("SELECT count(*) FROM pgmq.q_celery_e2e") == 0, "nothing is left in the queue")
    assert [executor["queues"] for executor in executors] == [["e2e_queue", "e2e_other_queue"]] * 2
    handles = cluster.start(workflows.linear, {"n": 1})
    assert cluster.wait(handles) == ["complete"]


def test_workers_are_in_their_table_while_they_live(cluster: Cluster) -> None:
    cluster.register(workflows.linear)
    worker = cluster.worker("-Q", "e2e,plain", "-P", "prefork", "-c", "2", name="steps")
    (row,) = wait_until(lambda: cluster.rows("SELECT * FROM tasker.workers"), "the worker registered")
    assert (row["hostname"], row["pid"], row["pool"], row["concurrency"]) == ("steps@test", worker.pid, "prefork", 3)
    assert row["queues"] == ["e2e", "plain"]
    wait_until(
        lambda: cluster.value("SELECT heartbeat_at FROM tasker.workers") > row["heartbeat_at"], "its heart beats"
    )
    assert worker.terminate() == 0
    assert cluster.rows("SELECT * FROM tasker.workers") == []


def test_with_periodic_hosting_beat_drives_orchestration(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(TASKER_ORCHESTRATION__HOSTING="periodic")
    cluster.register(workflows.linear)
    worker = cluster.worker("-Q", "orchestration", "-P", "threads", "-c", "1", name="orchestration")
    cluster.worker("-Q", "e2e,e2e_other", "-P", "threads", "-c", "1", name="steps")
    cluster.beat()
    cluster.value(
        "SELECT tasker.queue_send('task_requests_queue', ARRAY[jsonb_build_object("
        "'namespace', 'e2e', 'name', 'linear', 'context', jsonb_build_object('n', 1),"
        " 'run_at', clock_timestamp() + interval '1 second')])"
    )
    # TaskRequestProcessor creates it, TaskClaimer admits it when it is due: both in drains that beat asked for.
    (row,) = wait_until(lambda: cluster.rows("SELECT task_uuid FROM tasker.tasks"), "the task was created")
    assert cluster.client.wait(row["task_uuid"], timeout=30).state == "complete"
    worker.wait_for_log(r"drain_executor\[[-0-9a-f]+\] succeeded in [0-9.]+s: 1")
    assert "run_executors" not in worker.log.replace("tasker.run_executors\n", "")
    wait_until(lambda: cluster.executors("task_claimer") == [], "a drain to end, if one is under way")
