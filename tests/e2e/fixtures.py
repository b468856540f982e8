"""The fixture ``cluster``: ``pytest_plugins = ["tests.e2e.fixtures"]`` in a test module gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Cluster

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


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    """A cluster with the settings of the environment ``test``."""
    return make_cluster()
