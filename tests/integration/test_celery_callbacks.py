"""Tasker's own Celery tasks that bring outcomes back, while the database is away for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from celery import Celery

from tasker import OrchestrationCore
from tasker.hosting.delegation import STEP_FAILED, STEP_SUCCEEDED
from tasker.hosting.hosting import install
from tasker.messaging.client import PgmqClient
from tasker.messaging.queues import STEP_RESULTS

STEP = {"task_uuid": "t", "step_uuid": "s", "position": 0, "map_index": 0, "fence": 1, "executor": "e"}
NOBODY = "postgresql://postgres@127.0.0.1:9/nobody"


class Worker:
    """A process whose database cannot be reached the first ``failures`` times."""

    def __init__(self, core: OrchestrationCore) -> None:
        self.core = core
        self.failures = 0
        self.app = Celery("tasker", broker="memory://", set_as_current=False)
        install(self.app, self._make_core)

    def _make_core(self) -> OrchestrationCore:
        if self.failures:
            self.failures -= 1
            return OrchestrationCore.from_settings(self.core.settings, database_url=NOBODY)
        return self.core

    def posted(self) -> list[Any]:
        messages = PgmqClient(self.core.database, self.core.settings.pgmq).read_messages(STEP_RESULTS, 10)
        return [message.message for message in messages]


@pytest.fixture
def worker(tasker_core: OrchestrationCore) -> Iterator[Worker]:
    made = Worker(tasker_core)
    yield made
    made.app.close()


def test_a_result_is_posted_when_the_database_is_back(worker: Worker) -> None:
    worker.failures = 2
    worker.app.tasks[STEP_SUCCEEDED].apply((7,), {"step": STEP})
    assert worker.posted() == [{**STEP, "status": "complete", "results": 7}]


def test_what_the_worker_itself_saw_failing_is_not_lost_with_the_database(worker: Worker) -> None:
    worker.failures = 1
    with worker.app.connection_for_read() as connection:
        # As Celery calls it in the process whose task raised.
        worker.app.tasks[STEP_FAILED](type("Request", (), {"id": "1:1"}), ValueError("no"), None, step=STEP)
        assert worker.posted() == []
        message = connection.default_channel.basic_get("orchestration", no_ack=True)
    args, kwargs, _ = message.decode()
    worker.app.tasks[STEP_FAILED].apply(args, kwargs)
    (outcome,) = worker.posted()
    assert (outcome["status"], outcome["error"]["message"]) == ("error", "no")


def test_a_failure_that_nobody_can_explain_is_posted_all_the_same(worker: Worker) -> None:
    worker.app.tasks[STEP_FAILED].apply(("1:1",), {"step": STEP})
    assert [outcome["error"]["type"] for outcome in worker.posted()] == ["celery_task_failed"]


def test_nobody_is_there(tasker_core: OrchestrationCore) -> None:
    with pytest.raises(psycopg.OperationalError):
        OrchestrationCore.from_settings(tasker_core.settings, database_url=NOBODY)
