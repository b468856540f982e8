"""One way to break a rule of ``tasker db verify``, in the database of ``healthy``.

``{kind}`` stands for the uuid of a task, ``{kind!executor}`` for that of its last executor. Where the database itself
would refuse what is written, its constraint goes first.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Corruption:
    """What is done, in words and in SQL."""

    does: str
    statements: tuple[str, ...]


def by(does: str, *statements: str) -> Corruption:
    """What is done, in words; then in SQL."""
    return Corruption(does, statements)


STRANGER = "CAST('0190a0a0-0000-7000-8000-000000000000' AS uuid)"
DROP_HELD = "ALTER TABLE tasker.%s DROP CONSTRAINT allowed_transition"
FUTURE = "clock_timestamp() + interval '1 hour'"
PAST = "clock_timestamp() - interval '1 hour'"


def drop_checks(table: str) -> str:
    """Drop the checks of a table: what they forbid is looked for all the same, as they may have been dropped."""
    return f"""DO $$ DECLARE c record; BEGIN
        FOR c IN SELECT conname FROM pg_constraint WHERE conrelid = 'tasker.{table}'::regclass AND contype = 'c'
        LOOP EXECUTE format('ALTER TABLE tasker.{table} DROP CONSTRAINT %I', c.conname); END LOOP; END $$"""
