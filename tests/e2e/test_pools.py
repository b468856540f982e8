"""Workflows on each of Celery's pools."""

from __future__ import annotations

import pytest

from tests.e2e import workflows
from tests.e2e.harness import Cluster

TASKS = 40


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_workflow_over_two_namespaces_runs_to_its_end_on_each_pool(cluster: Cluster, pool: str) -> None:
    cluster.register(workflows.linear)
    cluster.worker("-Q", "e2e,e2e_other", "-P", pool, "-c", "2")
    handles = cluster.start(workflows.linear, *({"n": n} for n in range(TASKS)))
    assert set(cluster.wait(handles)) == {"complete"}
    assert [handle.results["fourth"]["value"] for handle in handles] == [(n + 1) * 2 - 1 for n in range(TASKS)]
    assert set(cluster.losses(handles)) == {(1, 0)}
