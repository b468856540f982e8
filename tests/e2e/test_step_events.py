"""Each step as a Celery task in events: what Flower and every other monitor sees of workflows."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery

from tasker.client.handle import TaskHandle
from tests.e2e import workflows
from tests.e2e.events import watched
from tests.e2e.fixtures import MakeCluster
from tests.e2e.foreign.redis_server import REDIS_URL, close, close_leftovers, forget, redis_or_skip
from tests.e2e.harness import Cluster
from tests.waiting import wait_until

POOLS = pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.long), "solo"])


def steps_of(cluster: Cluster, handle: TaskHandle) -> dict[str, Any]:
    """The steps of a task by name."""
    return {step.name: step for step in cluster.client.steps(handle)}


@POOLS
def test_every_step_is_told_as_a_task_with_its_name_worker_runtime_and_result(cluster: Cluster, pool: str) -> None:
    cluster.register(workflows.linear)
    cluster.worker("-Q", "e2e,e2e_other", "-P", pool, "-c", "2", "-E", name="w")
    with watched(cluster.app) as watcher:
        handles = cluster.start(workflows.linear, *({"n": n} for n in range(20)))
        assert set(cluster.wait(handles)) == {"complete"}
        for handle in handles:
            for name, step in steps_of(cluster, handle).items():
                task = watcher.wait_for(step.step_uuid, "task-received", "task-started", "task-succeeded")
                assert (task.name, task.state) == (f"e2e.linear.{name}", "SUCCESS")
                assert (task.worker.hostname, task.root_id, task.retries) == ("w@test", str(handle.task_uuid), 0)
                assert str(handle.task_uuid) in task.kwargs
                assert task.runtime >= 0
                assert task.result.startswith('{"value":')
                assert watcher.of(step.step_uuid) == ["task-received", "task-started", "task-succeeded"]
    clocks = [event["clock"] for event in watcher.events if event["type"].startswith("task-")]
    assert all(isinstance(clock, int) for clock in clocks)
    assert watcher.state.workers["w@test"].alive


@POOLS
def test_a_step_that_fails_is_told_as_retried_then_received_again_and_as_failed_in_the_end(
    cluster: Cluster, pool: str
) -> None:
    cluster.register(workflows.flaky, workflows.hopeless)
    cluster.worker("-Q", "e2e", "-P", pool, "-c", "1", "-E", name="w")
    with watched(cluster.app) as watcher:
        (lucky,) = cluster.start(workflows.flaky, {})
        (hopeless,) = cluster.start(workflows.hopeless, {})
        assert cluster.wait([lucky, hopeless]) == ["complete", "error"]
        uuid = steps_of(cluster, lucky)["third_time_lucky"].step_uuid
        task = watcher.wait_for(uuid, "task-succeeded")
        once = ["task-received", "task-started"]
        assert watcher.of(uuid) == [*once, "task-retried", *once, "task-retried", *once, "task-succeeded"]
        assert (task.state, task.retries) == ("SUCCESS", 2)
        uuid = steps_of(cluster, hopeless)["give_up"].step_uuid
        task = watcher.wait_for(uuid, "task-failed")
        assert watcher.of(uuid) == [*once, "task-failed"]
        assert (task.state, task.exception) == ("FAILURE", "no_hope('it was never possible')")


def test_a_step_that_takes_long_is_told_as_started_while_it_runs(cluster: Cluster) -> None:
    cluster.register(workflows.paced)
    cluster.worker("-Q", "e2e", "-c", "1", "-E", name="w")
    with watched(cluster.app) as watcher:
        gate = cluster.folder / "gate"
        handles = cluster.start(workflows.paced, {"n": 1, "gate": str(gate)})
        uuid = steps_of(cluster, handles[0])["begin"].step_uuid
        assert watcher.wait_for(uuid, "task-started").state == "STARTED"
        gate.touch()
        assert cluster.wait(handles) == ["complete"]
        assert watcher.wait_for(uuid, "task-succeeded").state == "SUCCESS"


@pytest.mark.parametrize(("pool", "at_first"), [("prefork", True), ("threads", False), ("solo", True)])
def test_events_are_switched_on_and_off_while_the_worker_runs(
    make_cluster: MakeCluster, tmp_path: Path, pool: str, at_first: bool
) -> None:
    (tmp_path / "silent_or_not.py").write_text(f"worker_send_task_events = {at_first}")
    cluster = make_cluster(CELERY_CONFIG_MODULE="silent_or_not")
    cluster.register(workflows.linear)
    cluster.worker("-Q", "e2e,e2e_other", "-P", pool, "-c", "1", name="w")

    def step_of_a_new_task() -> Any:
        handles = cluster.start(workflows.linear, {"n": 1})
        assert cluster.wait(handles) == ["complete"]
        return steps_of(cluster, handles[0])["fourth"].step_uuid

    def events_are(wanted: bool) -> bool:
        replies = cluster.app.control.broadcast("tasker_stats", reply=True, timeout=2, limit=1)
        return bool(replies) and replies[0]["w@test"]["events"]["wanted"] is wanted

    with watched(cluster.app) as watcher:
        wait_until(lambda: events_are(at_first), "events are as the settings say")
        cluster.app.control.disable_events()
        wait_until(lambda: events_are(False), "events are off")
        silent = step_of_a_new_task()
        cluster.app.control.enable_events()
        wait_until(lambda: events_are(True), "events are on")
        told = step_of_a_new_task()
        watcher.wait_for(told, "task-received", "task-succeeded")
        cluster.app.control.disable_events()
        wait_until(lambda: events_are(False), "events are off")
        silent_again = step_of_a_new_task()
        cluster.app.control.enable_events()
        wait_until(lambda: events_are(True), "events are on again")
        # What comes in order shows that nothing was under way.
        watcher.wait_for(step_of_a_new_task(), "task-succeeded")
        assert (watcher.of(silent), watcher.of(silent_again)) == ([], [])


def test_what_ends_while_the_worker_stops_is_told_and_the_worker_is_offline_afterwards(cluster: Cluster) -> None:
    cluster.register(workflows.paced)
    worker = cluster.worker("-Q", "e2e", "-c", "1", "-E", name="w")
    with watched(cluster.app) as watcher:
        gate = cluster.folder / "gate"
        handles = cluster.start(workflows.paced, {"n": 1, "gate": str(gate)})
        uuid = steps_of(cluster, handles[0])["begin"].step_uuid
        watcher.wait_for(uuid, "task-started")
        worker.signal(signal.SIGTERM)
        worker.wait_for_log("Warm shutdown")
        gate.touch()
        assert worker.wait() == 0
        assert watcher.wait_for(uuid, "task-succeeded").state == "SUCCESS"
        wait_until(lambda: not watcher.state.workers["w@test"].alive, "the worker is offline")


@pytest.mark.long  # tests/e2e/brokers/test_brokers.py hears them on each broker
def test_events_travel_over_redis_as_well(make_cluster: MakeCluster, tmp_path: Path) -> None:
    redis, prefix = redis_or_skip(), f"test-{uuid4()}-"
    options = {"global_keyprefix": prefix}
    (tmp_path / "over_redis.py").write_text(
        f"broker_url = {REDIS_URL!r}\nbroker_transport_options = {options}\nworker_send_task_events = True"
    )
    cluster = make_cluster(CELERY_CONFIG_MODULE="over_redis")
    cluster.register(workflows.linear)
    app = Celery("listener", broker=REDIS_URL, set_as_current=False)
    app.conf.broker_transport_options = options
    try:
        cluster.worker("-Q", "e2e,e2e_other", "-c", "1", name="w")
        with watched(app) as watcher:
            handles = cluster.start(workflows.linear, *({"n": n} for n in range(5)))
            assert set(cluster.wait(handles)) == {"complete"}
            for handle in handles:
                for step in steps_of(cluster, handle).values():
                    assert watcher.wait_for(step.step_uuid, "task-succeeded").state == "SUCCESS"
        cluster.close()  # or the worker would write once more
    finally:
        close(app)
        forget(redis, prefix)
        close_leftovers()
