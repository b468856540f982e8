"""What Flower, as it is, shows of workers, executors and steps."""

from __future__ import annotations

import pytest

from tests.e2e import workflows
from tests.e2e.fixtures import MakeCluster
from tests.e2e.flower import Flower
from tests.e2e.harness import Cluster
from tests.waiting import wait_until


@pytest.fixture
def silent_cluster(make_cluster: MakeCluster) -> Cluster:
    """Workers that send events of tasks only when they are told to."""
    cluster = make_cluster(CELERY_CONFIG_MODULE="silent")
    (cluster.folder / "silent.py").write_text("worker_send_task_events = False")
    return cluster


def test_flower_shows_steps_with_state_runtime_worker_and_retries_and_has_a_worker_tell_of_them(
    silent_cluster: Cluster,
) -> None:
    cluster = silent_cluster
    cluster.register(workflows.linear, workflows.flaky, workflows.hopeless, workflows.paced)
    cluster.worker("-Q", "e2e,e2e_other", "-c", "1", name="w")
    flower = Flower(cluster)
    flower.wait_for_worker("w@test")

    def told() -> bool:
        """Flower switches events on, every few seconds; what was before that it cannot know."""
        stats = cluster.app.control.broadcast("tasker_stats", reply=True, timeout=5, limit=1)
        return bool(stats) and stats[0]["w@test"]["events"]["wanted"] is True

    wait_until(told, "Flower has switched events on")
    (linear,) = cluster.start(workflows.linear, {"n": 1})
    (flaky,) = cluster.start(workflows.flaky, {})
    (hopeless,) = cluster.start(workflows.hopeless, {})
    cluster.wait([linear, flaky, hopeless])

    for step in cluster.client.steps(linear):
        task = flower.wait_for(step.step_uuid, "SUCCESS")
        assert (task["name"], task["worker"]) == (f"e2e.linear.{step.name}", "w@test")
        assert (task["retries"], task["root_id"]) == (0, str(linear.task_uuid))
        assert task["runtime"] >= 0
        assert task["received"] <= task["started"] <= task["succeeded"]
    (step,) = cluster.client.steps(flaky)
    task = flower.wait_for(step.step_uuid, "SUCCESS")
    assert (task["retries"], task["retried"] is not None) == (2, True)
    (step,) = cluster.client.steps(hopeless)
    task = flower.wait_for(step.step_uuid, "FAILURE")
    assert task["exception"] == "no_hope('it was never possible')"

    gate = cluster.folder / "gate"
    (paced,) = cluster.start(workflows.paced, {"n": 1, "gate": str(gate)})
    flower.wait_for(cluster.client.steps(paced)[0].step_uuid, "STARTED")
    (executor,) = flower.get("/api/workers?refresh=true&workername=w@test")["w@test"]["active"]
    assert executor["executor"]["kind"] == "step_executor"
    assert executor["executor"]["counts"]["held"] == 1
    assert flower.get("/api/tasks?state=SUCCESS&taskname=e2e.linear.first").keys() == {
        str(cluster.client.steps(linear)[0].step_uuid)
    }
    gate.touch()
    assert cluster.wait([paced]) == ["complete"]
