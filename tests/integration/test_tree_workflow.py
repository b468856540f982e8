"""One step, two, four, and one that gathers them all."""

from __future__ import annotations

from tests.e2e.harness import Cluster
from tests.integration import shapes

TASKS = 100


def test_tree_workflow_runs_to_its_end_on_real_workers(shapes_cluster: Cluster) -> None:
    handles = shapes_cluster.start(shapes.tree, *({"n": n} for n in range(TASKS)))
    assert set(shapes_cluster.wait(handles)) == {"complete"}
    values = [handle.results["gather"]["value"] for handle in handles]
    assert values == [8 * (n + 1) + 18 * (n + 2) for n in range(TASKS)]
    # Each step once, and none of them lost on the way.
    assert shapes_cluster.losses(handles) == [(1, 0)] * (8 * TASKS)
    assert shapes_cluster.rows("SELECT * FROM tasker.dead_letters") == []
