"""The SQL core on every server there is; after each test, its invariants hold.

These tests are many and small, so they share one database on each server and empty it between them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tasker.database.scratch import ScratchDatabases
from tests.sql_kit import Core, lawful

HERE = Path(__file__).parent

# Rows are deleted: TRUNCATE makes new files for every table and index, and took longer than most tests do.
EMPTY = """
DO $$
DECLARE
    q record;
BEGIN
    PERFORM set_config('session_replication_role', 'replica', true);  -- in any order, and audit rows too
    FOR q IN SELECT c.oid::regclass AS name FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE n.nspname = 'tasker' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
               AND c.relname NOT LIKE 'celery%' AND c.relname <> ALL (ARRAY[
                   'alembic_version', 'schema_releases', 'schema_functions',
                   'operational_state', 'metric_progress', 'coordinator']) LOOP
        EXECUTE format('DELETE FROM %s', q.name);
    END LOOP;
    PERFORM setval(s.seqrelid, s.seqstart, false) FROM pg_sequence AS s JOIN pg_class AS c ON c.oid = s.seqrelid
    WHERE c.relnamespace = 'tasker'::regnamespace AND c.relname NOT LIKE 'celery%';
    PERFORM set_config('session_replication_role', 'origin', true);
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
UPDATE tasker.operational_state SET state = 'startup', reason = NULL, changed_by = NULL;
UPDATE tasker.metric_progress SET counted_until = clock_timestamp(), waiting = '{}';
UPDATE tasker.coordinator SET net_cursor = NULL, lifecycle_cursor = NULL, last_tick_at = NULL, series_started_at = NULL;
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On the machine's own server, of another version, a third of the tests run in the short form."""
    for item in items:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        drawn = isinstance(item, pytest.Function) and zlib.crc32(item.originalname.encode()) % 3 == 0
        if HERE in item.path.parents and parameters.get("any_server") == "local" and not drawn:
            item.add_marker("long")


@pytest.fixture(scope="session")
def shared_url(any_server: ScratchDatabases) -> Iterator[str]:
    url = any_server.create()
    with psycopg.connect(url, autocommit=True) as connection:
        # No server is killed here, so nobody has to wait for a disk.
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(name))
    yield url
    any_server.drop(url)


@pytest.fixture
def core(shared_url: str) -> Iterator[Core]:
    with psycopg.connect(shared_url, autocommit=True) as connection:
        connection.execute(EMPTY)
    with lawful(shared_url) as driver:
        yield driver
