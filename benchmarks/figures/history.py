"""Lays down a history of finished tasks fast, and so that every rule of ``tasker db verify`` holds.

A few thousand tasks run for real, through the SQL functions and one executor. Their rows are then multiplied by plain
SQL: each copy lies one span of the originals further back in time, in its timestamps and in the time that begins the
uuid of a task. So no two copies meet, keys rise as rows are written, and block ranges of the audit tables hold
neighbours in time, as in a history that grew.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
from psycopg import sql

from benchmarks.inside import create, executor_here
from benchmarks.shapes import Shape
from tasker import Tasker

ORIGINALS = 2000
COPIES_IN_ONE_TRANSACTION = 20

COLUMNS = """
    SELECT c.relname, array_agg(CAST(a.attname AS text) ORDER BY a.attnum),
           array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum)
    FROM pg_class AS c
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    WHERE c.relnamespace = CAST('tasker' AS regnamespace) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    GROUP BY c.relname HAVING 'task_uuid' = ANY (array_agg(CAST(a.attname AS text)))
    ORDER BY c.relname
"""
COPIED = ("task_contexts", "task_transitions", "tasks", "workflow_step_transitions", "workflow_steps")
SPAN = """
    SELECT CAST(ceil(extract(epoch FROM max(finished_at) - min(created_at)) * 1000) AS bigint) + 1000 FROM tasker.tasks
"""
# The first 48 bits of a uuid of version 7 are its milliseconds; what follows stays.
MOVED = """
    CAST(lpad(to_hex(CAST(CAST('x' || left(replace(CAST({uuid} AS text), '-', ''), 12) AS bit(48)) AS bigint)
                     - k.copy * %(span)s), 12, '0')
         || substr(replace(CAST({uuid} AS text), '-', ''), 13) AS uuid)
"""
INSERT = """
    INSERT INTO tasker.{table} ({columns})
    SELECT {values} FROM generate_series(CAST(%(last)s AS bigint), %(first)s, -1) AS k(copy)
    CROSS JOIN LATERAL (SELECT * FROM {source} AS x WHERE k.copy > 0 OFFSET 0) AS o
"""


def finished_tasks(url: str, shape: Shape, count: int) -> None:
    """Have at least ``count`` finished tasks in a database in which the shape is registered and no task is."""
    originals = min(ORIGINALS, count)
    with executor_here(url, 50) as loop, Tasker(url) as client:
        create(client, shape, originals)
        loop.run_until_idle(300)
    copies = -(-count // originals) - 1
    if copies:
        _multiply(url, copies)


def _multiply(url: str, copies: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        tables = {name: list(zip(names, types, strict=True)) for name, names, types in connection.execute(COLUMNS)}
        for name in tables.keys() - set(COPIED):
            if connection.execute(sql.SQL("SELECT FROM tasker.{} LIMIT 1").format(sql.Identifier(name))).fetchone():
                raise RuntimeError(f"tasker.{name} has rows of the originals, and nobody said how they are copied")
        row = connection.execute(SPAN).fetchone()
        assert row is not None
        # What is copied is fixed first: the tables are about to grow.
        for name in COPIED:
            statement = "CREATE UNLOGGED TABLE {} AS SELECT * FROM {}"
            connection.execute(sql.SQL(statement).format(_original(name), sql.Identifier("tasker", name)))
    with ThreadPoolExecutor(2) as pool:  # the two largest tables are about half of it
        for done in [
            pool.submit(_copy, url, name, tables[name], copies, row[0]) for name in sorted(COPIED, key=_smallest_last)
        ]:
            done.result()
    with psycopg.connect(url, autocommit=True) as connection:
        for name in COPIED:
            connection.execute(sql.SQL("DROP TABLE {}").format(_original(name)))


def _copy(url: str, table: str, columns: list[tuple[str, str]], copies: int, span: int) -> None:
    values = [sql.SQL(_value(name, kind)) for name, kind in columns]
    statement = sql.SQL(INSERT).format(
        table=sql.Identifier(table),
        columns=sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns),
        values=sql.SQL(", ").join(values),
        source=_original(table),
    )
    with psycopg.connect(url, autocommit=True, options="-c synchronous_commit=off -c jit=off") as connection:
        for last in range(copies, 0, -COPIES_IN_ONE_TRANSACTION):  # the oldest first
            first = max(1, last - COPIES_IN_ONE_TRANSACTION + 1)
            connection.execute(statement, {"last": last, "first": first, "span": span})


def _value(name: str, kind: str) -> str:
    """SQL: what a copy has in this column."""
    if name == "task_uuid":
        return MOVED.format(uuid="o.task_uuid")
    if name == "step_uuid":
        return f"tasker.step_uuid({MOVED.format(uuid='o.task_uuid')}, o.position, o.map_index)"
    if kind == "timestamp with time zone":
        return f"o.{name} - k.copy * %(span)s * interval '1 millisecond'"
    return f"o.{name}"


def _original(table: str) -> sql.Identifier:
    return sql.Identifier("public", f"original_{table}")


def _smallest_last(table: str) -> int:
    return ("workflow_steps", "workflow_step_transitions", "tasks", "task_transitions", "task_contexts").index(table)
