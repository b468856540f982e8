"""The fixtures ``cluster`` and ``make_cluster``, which tests/conftest.py gives to all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Cluster
from tests.sql_kit import assert_legal

MakeCluster = Callable[..., Cluster]


@pytest.fixture
def make_cluster(tasker_database_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeCluster]:
    """Makes a cluster on the test's database, with settings as keyword arguments (environment variables)."""
    made: list[Cluster] = []

    def make(**env: str) -> Cluster:
        made.append(Cluster(tasker_database_url, tmp_path, env))
        return made[-1]

    yield make
    for cluster in made:
        report = cluster.report()
        cluster.close()
        # Shown by pytest with a test that failed.
        print(report)
    # Whatever was killed, stopped or frozen: what the tables say is legal.
    if made:
        assert_legal(tasker_database_url)


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    """A cluster with the settings of the environment ``test``."""
    return make_cluster()


@pytest.fixture
def shapes_cluster(make_cluster: MakeCluster) -> Cluster:
    """Two processes that run the steps of ``tests.integration.shapes``, and an orchestration worker."""
    from tests.integration import shapes

    cluster = make_cluster(TASKER_ENGINE__HANDLER_MODULES="tests.integration.shapes")
    cluster.register(shapes.linear, shapes.diamond, shapes.tree, shapes.mixed)
    cluster.worker("-Q", shapes.NAMESPACE, "-P", "prefork", "-c", "2", name="steps", ready=False)
    cluster.worker("-Q", "orchestration", "-P", "threads", "-c", "1", name="orchestration")
    cluster.wait_for_executors(2)
    return cluster
