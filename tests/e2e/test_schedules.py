"""Schedules fired by real workers, without a beat."""

from __future__ import annotations

from itertools import pairwise

from tests.e2e import workflows
from tests.e2e.harness import Cluster, wait_until


def test_workers_fire_each_slot_once_whoever_of_them_dies(cluster: Cluster) -> None:
    cluster.register(workflows.paced)
    workers = [cluster.worker("-Q", "e2e,orchestration", "-P", "threads", "-c", "2") for _ in range(2)]
    cluster.client.add_schedule("often", workflows.NAMESPACE, "paced", {"n": 1, "seconds": 0}, every=1, catch_up="all")

    def complete() -> int:
        return len(cluster.client.list(tag="schedule:often", states=["complete"]).tasks)

    wait_until(lambda: complete() >= 2, "two slots are fired and done")
    workers[0].kill_all()
    done = complete()
    wait_until(lambda: complete() >= done + 2, "the other worker goes on")
    cluster.client.pause_schedule("often")
    tasks = cluster.client.list(tag="schedule:often", limit=1000).tasks
    slots = sorted(task.run_at for task in tasks if task.run_at is not None)
    assert len(slots) == len(set(slots)) == len(tasks)
    assert {(later - earlier).total_seconds() for earlier, later in pairwise(slots)} == {1.0}
