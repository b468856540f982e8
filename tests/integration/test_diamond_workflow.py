"""One step, two beside each other, and one that joins them."""

from __future__ import annotations

from tests.e2e.harness import Cluster
from tests.integration import shapes

TASKS = 100


def test_diamond_workflow_runs_to_its_end_on_real_workers(shapes_cluster: Cluster) -> None:
    handles = shapes_cluster.start(shapes.diamond, *({"n": n} for n in range(TASKS)))
    assert set(shapes_cluster.wait(handles)) == {"complete"}
    values = [handle.results["bottom"]["value"] for handle in handles]
    assert values == [(n + 10) * (n + 100) for n in range(TASKS)]
    # Each step once, and none of them lost on the way.
    assert shapes_cluster.losses(handles) == [(1, 0)] * (4 * TASKS)
    assert shapes_cluster.rows("SELECT * FROM tasker.dead_letters") == []
