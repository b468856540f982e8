"""What PostgreSQL itself counts while one executor works: the own time of each function, the rows and blocks read."""

from __future__ import annotations

import time
from typing import Any

import psycopg

from benchmarks.inside import CHAIN, create, executor_here
from benchmarks.servers import name_of
from tasker import Tasker
from tasker.executors.executor import ExecutorKind

BATCH = 50
WARM_TASKS = 100

FUNCTIONS = "SELECT funcname, self_time FROM pg_stat_user_functions"
TABLES = """
    SELECT regexp_replace(s.relname, '_p[0-9]{8}$', ''),
           sum(coalesce(s.seq_tup_read, 0) + coalesce(s.idx_tup_fetch, 0)),
           sum(coalesce(o.heap_blks_read, 0) + coalesce(o.idx_blks_read, 0) + coalesce(o.toast_blks_read, 0)),
           sum(coalesce(o.heap_blks_hit, 0) + coalesce(o.idx_blks_hit, 0) + coalesce(o.toast_blks_hit, 0))
    FROM pg_stat_user_tables AS s JOIN pg_statio_user_tables AS o USING (relid)
    GROUP BY 1
"""
HOLDER = "bench holder"
"""The application name of a session that does nothing but hold something."""

OTHERS = f"""
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
      AND application_name <> '{HOLDER}'
"""


def settle(url: str) -> None:
    """As autovacuum would sooner or later: statistics, visibility, summaries; then all of it is on disk."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")


def watch(url: str, tasks: int) -> dict[str, dict[str, Any]]:
    """Let one process with executors of all kinds work off chains of four.

    Args:
        url: a database in which no engine is at work.
        tasks: how many chains.

    Returns:
        ``functions``: own microseconds for each step, by name; ``tables``: by name, ``rows`` read, ``missed`` blocks
        (not found in PostgreSQL's own memory) and ``hit`` ones, for each step.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name_of(url)} SET track_functions = 'pl'".encode())
    with executor_here(url, BATCH, tuple(ExecutorKind)) as loop, Tasker(url) as client:
        create(client, CHAIN, WARM_TASKS)
        loop.run_until_idle(300)
    before = _counters(url)
    with executor_here(url, BATCH, tuple(ExecutorKind)) as loop, Tasker(url) as client:
        create(client, CHAIN, tasks)
        loop.run_until_idle(600)
    after = _counters(url)
    steps = tasks * CHAIN.steps
    functions, tables = (_grown(after[part], before[part], steps) for part in ("functions", "tables"))
    return {
        "functions": {name: own * 1000 for name, (own,) in functions.items()},
        "tables": {
            name: dict(zip(("rows", "missed", "hit"), counted, strict=True)) for name, counted in tables.items()
        },
    }


def alone(connection: psycopg.Connection[Any]) -> None:
    """Wait until nobody else is connected to this database; with that all have told what they counted."""
    deadline = time.monotonic() + 30
    while connection.execute(OTHERS.encode()).fetchone() != (0,):
        if time.monotonic() > deadline:
            raise RuntimeError("somebody else is connected to the database that is watched")
        time.sleep(0.02)


def _grown(
    after: dict[str, tuple[float, ...]], before: dict[str, tuple[float, ...]], steps: int
) -> dict[str, tuple[float, ...]]:
    return {
        name: tuple((now - then) / steps for now, then in zip(counted, before.get(name, (0.0,) * 9), strict=False))
        for name, counted in after.items()
    }


def _counters(url: str) -> dict[str, dict[str, tuple[float, ...]]]:
    """What all who have worked there counted; they tell it when they leave."""
    with psycopg.connect(url, autocommit=True) as connection:
        alone(connection)
        return {
            part: {name: tuple(map(float, counted)) for name, *counted in connection.execute(query)}
            for part, query in (("functions", FUNCTIONS), ("tables", TABLES))
        }
