"""The SQL core on every server there is; after each test, its invariants hold.

These tests are many and small, so they share one database on each server and empty it between them.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tasker.database.scratch import ScratchDatabases
from tests.sql_kit import Core, lawful

EMPTY = """
DO $$
DECLARE
    q record;
BEGIN
    FOR q IN SELECT queue_name FROM pgmq.meta LOOP
        IF q.queue_name IN ('task_requests_queue', 'orchestration_step_results', 'step_enqueue',
                            'task_finalization') THEN
            EXECUTE format('DELETE FROM pgmq.%I', 'q_' || q.queue_name);
        ELSE
            PERFORM pgmq.drop_queue(q.queue_name);
        END IF;
    END LOOP;
END
$$;
TRUNCATE tasker.schedules, tasker.named_tasks, tasker.named_steps, tasker.namespaces, tasker.tasks,
    tasker.task_contexts, tasker.task_identities, tasker.workflow_steps, tasker.step_claims, tasker.step_timers,
    tasker.task_transitions, tasker.workflow_step_transitions, tasker.finalization_attempts, tasker.executors,
    tasker.workers, tasker.waiters, tasker.dead_letters RESTART IDENTITY;
UPDATE tasker.coordinator SET net_cursor = NULL, last_tick_at = NULL, series_started_at = NULL;
"""


@pytest.fixture(scope="session")
def shared_url(any_server: ScratchDatabases) -> Iterator[str]:
    url = any_server.create()
    yield url
    any_server.drop(url)


@pytest.fixture
def core(shared_url: str) -> Iterator[Core]:
    with psycopg.connect(shared_url, autocommit=True) as connection:
        connection.execute(EMPTY)
    with lawful(shared_url) as driver:
        yield driver
