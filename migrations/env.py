"""Alembic's entry point, run by ``tasker.database.migrations``: tables only, functions are files beside this one.

It connects to nothing by itself: the caller hands over an open connection, in whose transaction everything happens
together with PGMQ, functions, roles and partitions, or asks for the SQL text (``tasker db sql``).
"""

from __future__ import annotations

from alembic import context

_SCHEMA = "tasker"

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True, version_table_schema=_SCHEMA)
else:
    connection = context.config.attributes.get("connection")
    if connection is None:
        raise RuntimeError(
            "run `tasker db migrate`: revisions are one part of a migration, under one lock with the others"
        )
    context.configure(connection=connection, version_table_schema=_SCHEMA, transaction_per_migration=False)

with context.begin_transaction():
    context.run_migrations()
