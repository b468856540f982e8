"""The example of a chord and the workflow made of it: both print the same, on the same worker."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid

import pytest
from redis import Redis

from tests.e2e.fixtures import MakeCluster
from tests.e2e.foreign.redis_server import REDIS_URL, forget, redis_or_skip
from tests.e2e.harness import ROOT

DAY = "2026-03-01"


@pytest.fixture
def redis() -> Redis:
    return redis_or_skip()


def test_the_chord_and_the_workflow_made_of_it_print_the_same(make_cluster: MakeCluster, redis: Redis) -> None:
    prefix = f"tasker-test-{uuid.uuid4()}:"
    cluster = make_cluster(
        SALES_BROKER_URL=REDIS_URL,
        SALES_KEY_PREFIX=prefix,
        TASKER_ENGINE__CELERY_STEPS__CONFIG_MODULE="from_canvas.celery_settings",
    )
    cluster.env["PYTHONPATH"] += os.pathsep + str(ROOT / "examples")

    def printed(module: str) -> list[str]:
        command = [sys.executable, "-m", module, DAY]
        done = subprocess.run(
            command, env=cluster.env, cwd=cluster.folder, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    cluster.worker("-c", "2", app="from_canvas.tasks", name="sales")
    by_celery = printed("from_canvas.canvas")
    assert [line.partition(":")[0] for line in by_celery] == ["mail", "web"]
    # The worker without -Q hosts the namespace that the program is about to make, too.
    cluster.worker("-P", "threads", "-c", "3", name="tasker")
    assert printed("from_canvas.workflow") == by_celery
    assert cluster.value("SELECT count(*) FROM tasker.workflow_steps WHERE state = 'complete'") == 7
    forget(redis, prefix)
