"""Executors need no broker: they outlive its connection, and are replaced once there is one again."""

from __future__ import annotations

import pytest

from tests.e2e import workflows
from tests.e2e.harness import Cluster
from tests.waiting import wait_until


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_executors_outlive_the_connection_to_the_broker(cluster: Cluster, pool: str) -> None:
    # Celery ends tasks that acknowledge late when this is set, as their messages come again. Executors have none.
    (cluster.folder / "celeryconfig.py").write_text("worker_cancel_long_running_tasks_on_connection_loss = True\n")
    cluster.register(workflows.linear)
    worker = cluster.worker("-Q", "e2e,e2e_other", "-P", pool, "-c", "1")
    (before,) = cluster.wait_for_executors(1)
    cluster.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'tasker-broker' AND datname = current_database()"
    )
    worker.wait_for_log("Connection to broker lost")
    worker.wait_for_log("Connected to tasker-pgmq://", times=2)
    handles = cluster.start(workflows.linear, *({"n": n} for n in range(20)))
    assert set(cluster.wait(handles)) == {"complete"}
    (after,) = cluster.executors()
    assert after["executor"] == before["executor"]
    # Remote control works again, and the worker still ends in order.
    wait_until(lambda: cluster.app.control.ping(timeout=2), "the worker answers")
    assert worker.terminate() == 0
    assert cluster.rows("SELECT * FROM tasker.executors") == []
