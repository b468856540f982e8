"""PGMQ in the database: the extension where the server has it, the same SQL from the ``pgmq`` package where not."""

from __future__ import annotations

from typing import Any

import psycopg

from tasker.errors import SchemaVersionError

_NEEDED_FUNCTIONS = frozenset(
    {"create", "send", "send_batch", "read", "delete", "archive", "set_vt", "metrics", "list_queues", "purge_queue"}
)


def pgmq_install_sql() -> str:
    """One statement that installs PGMQ unless schema ``pgmq`` is there, in ``migrate`` and in ``tasker db sql``."""
    from pgmq.install import get_embedded_install_sql

    return (
        "DO $pgmq_install$\n"
        "BEGIN\n"
        "    IF to_regnamespace('pgmq') IS NULL THEN\n"
        "        IF EXISTS (SELECT 1 FROM pg_available_extensions WHERE name = 'pgmq') THEN\n"
        "            CREATE EXTENSION pgmq;\n"
        "        ELSE\n"
        "            EXECUTE $pgmq_sql$\n"
        f"{get_embedded_install_sql().rstrip()}\n"
        "$pgmq_sql$;\n"
        "        END IF;\n"
        "    END IF;\n"
        "END\n"
        "$pgmq_install$;\n"
    )


def ensure_pgmq(connection: psycopg.Connection[Any]) -> bool:
    """Install PGMQ inside the caller's transaction, or check what is there; whether it was installed now.

    Raises:
        SchemaVersionError: schema ``pgmq`` exists and lacks functions that Tasker's users or transport call.
    """
    found = connection.execute("SELECT to_regnamespace('pgmq') IS NOT NULL").fetchone() == (True,)
    if not found:
        connection.execute(pgmq_install_sql().encode())
    check_pgmq(connection)
    return not found


def check_pgmq(connection: psycopg.Connection[Any]) -> None:
    """Raise ``SchemaVersionError`` unless schema ``pgmq`` has every function that is called from here."""
    rows = connection.execute(
        "SELECT DISTINCT p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
        " WHERE n.nspname = 'pgmq'"
    ).fetchall()
    missing = _NEEDED_FUNCTIONS - {name for (name,) in rows}
    if missing:
        raise SchemaVersionError(
            f"schema pgmq has no function {', '.join(f'pgmq.{name}' for name in sorted(missing))}",
            hint="it is an old PGMQ or something else of that name: ALTER EXTENSION pgmq UPDATE, or rename that schema",
        )
