"""Ticks prune while workers run: what is over goes, what runs goes on, and the history stays legal."""

from __future__ import annotations

from tests.e2e import workflows
from tests.e2e.fixtures import MakeCluster
from tests.sql_kit import assert_legal
from tests.waiting import wait_until


def test_finished_tasks_go_as_others_run(make_cluster: MakeCluster, tasker_database_url: str) -> None:
    # A tenth of a second after they are final.
    cluster = make_cluster(TASKER_DATABASE__RETENTION__FINISHED_TASK_DAYS="0.000001")
    cluster.register(workflows.linear)
    cluster.worker("-Q", "e2e,e2e_other,orchestration", "-P", "threads", "-c", "4")
    made: set[str] = set()
    for _ in range(4):
        handles = cluster.start(workflows.linear, *({"n": number} for number in range(20)))
        made |= {str(handle.task_uuid) for handle in handles}
    wait_until(lambda: cluster.value("SELECT count(*) FROM tasker.tasks") == 0, "all tasks ran to their end and went")
    ended = cluster.rows("SELECT task_uuid::text FROM tasker.task_transitions WHERE to_state = 'complete'")
    assert {row["task_uuid"] for row in ended} == made
    for table in ("task_contexts", "workflow_steps", "step_timers", "dead_letters"):
        assert cluster.value(f"SELECT count(*) FROM tasker.{table}") == 0
    assert_legal(tasker_database_url)
