"""Bringing a database to this release's schema, in one transaction, whoever else is at it.

Order: PGMQ (revisions may create queues), tables (Alembic revisions), functions (files), roles and rights, first
partitions. All of it happens in one transaction under a transaction-level advisory lock: a second process waits, finds
nothing left to do, and a failure leaves nothing behind. Partitions of a schema that has been in use are extended
afterwards, one short transaction each.

A database remembers which releases migrated it (``tasker.schema_releases``). A process of an older release, or one that
does not know the database's revision, applies nothing: functions are replaced in place, so it would take newer ones
back.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from typing import TYPE_CHECKING, Any

import psycopg
from packaging.version import Version
from psycopg import errors as pg_errors
from sqlalchemy import create_engine
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from tasker.config.resources import resource_dir
from tasker.database.connection import Database
from tasker.database.function_files import (
    FunctionChanges,
    FunctionFile,
    applied_digests,
    apply,
    compare,
    load_function_files,
    signatures_sql,
)
from tasker.database.partitions import INITIAL_PARTITIONS_SQL, ensure_partitions
from tasker.database.pgmq_schema import check_pgmq, ensure_pgmq, pgmq_install_sql
from tasker.database.roles import ROLES, ensure_roles, existing_roles, roles_sql
from tasker.errors import SchemaVersionError

if TYPE_CHECKING:
    from alembic.config import Config

DISTRIBUTION = "tasker-celery"

_LOCK_KEY = 0x7461736B_65720001  # "tasker", 1
_LOCK_TIMEOUT_MS = 10_000
_BOOKKEEPING_SQL = """\
CREATE SCHEMA IF NOT EXISTS tasker;

CREATE TABLE IF NOT EXISTS tasker.schema_releases (
    release text PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

COMMENT ON TABLE tasker.schema_releases IS
    'Releases that migrated this database: an older one must not replace functions of a newer one.';
"""
# A CHECK that calls a function cannot come with its table: functions are applied after all revisions.
_TRANSITION_CHECKS_SQL = "SELECT tasker.ensure_transition_checks();"
_VIEW = re.compile(r"^\s*CREATE\s+(OR\s+REPLACE\s+)?VIEW\b", re.IGNORECASE | re.MULTILINE)
_RECORD_RELEASE_SQL = "INSERT INTO tasker.schema_releases (release) VALUES ({release}) ON CONFLICT DO NOTHING"


class SchemaState(StrEnum):
    """How a database's schema stands to this process's release."""

    EMPTY = "empty"
    BEHIND = "behind"
    CURRENT = "current"
    NEWER = "newer"


@dataclass(frozen=True)
class SchemaStatus:
    """What a database has, beside what this release wants.

    Attributes:
        state: the verdict.
        revision: the database's Alembic revision.
        head: this release's.
        release: the newest release that migrated the database.
        our_release: this process's.
        functions: how the function files differ from the database's functions.
        pgmq: ``extension <version>``, ``sql``, or ``None`` where it is missing.
        roles: those of ``tasker_client``, ``tasker_worker`` and ``tasker_operator`` that exist.
    """

    state: SchemaState
    revision: str | None
    head: str
    release: str | None
    our_release: str
    functions: FunctionChanges
    pgmq: str | None
    roles: tuple[str, ...]


@dataclass(frozen=True)
class MigrationReport:
    """What ``migrate`` did.

    Attributes:
        from_revision: the Alembic revision before, ``None`` for an empty database.
        to_revision: the one after.
        functions: the functions and views that were made, replaced and dropped.
        pgmq_installed: whether PGMQ was installed now.
        partitions: audit partitions made in a schema that was there before.
        missing_roles: roles that this login may not create; the schema's owner does their work.
        changed: whether anything was done at all.
    """

    from_revision: str | None
    to_revision: str
    functions: FunctionChanges
    pgmq_installed: bool
    partitions: tuple[str, ...]
    missing_roles: tuple[str, ...]
    changed: bool


def release() -> str:
    """This process's release of Tasker."""
    return metadata.version(DISTRIBUTION)


def migrate(url: str | URL) -> MigrationReport:
    """Bring the database at ``url`` to this release's schema. Any number of processes may do so at once.

    Raises:
        SchemaVersionError: the database is newer than this process, or something does not apply; nothing was changed.
        psycopg.Error: the database cannot be reached, or refused.
    """
    before = status(url)
    report = MigrationReport(before.revision, before.head, FunctionChanges(), False, (), _missing(before.roles), False)
    if not _done(before):
        with _transaction(url) as connection:
            report = _migrate_locked(connection)
    with _migrating(url).connect() as plain:
        partitions = ensure_partitions(plain)
    if not partitions:
        return report
    return MigrationReport(**{**vars(report), "partitions": partitions, "changed": True})


def ensure(url: str | URL, *, allowed: bool) -> SchemaStatus:
    """What a program does at its start: migrate if it is ``allowed`` to, and see that it can work with the schema.

    A newer release's database is left as it is, and is fine while both overlap.

    Raises:
        SchemaVersionError: as ``check``.
    """
    if allowed:
        try:
            migrate(url)
        except SchemaVersionError:
            if status(url).state is not SchemaState.NEWER:
                raise
    return check(url)


def status(url: str | URL) -> SchemaStatus:
    """Compare the database at ``url`` with this release; changes nothing."""
    with Database(url, application_name="tasker status").connect() as connection:
        return read_status(connection)


def check(url: str | URL) -> SchemaStatus:
    """Make sure that this process can work with the database at ``url``; changes nothing.

    A newer database is fine as long as every function that this release calls is still there: replaced versions stay
    for two releases, so that old and new workers overlap while a deploy runs.

    Raises:
        SchemaVersionError: the database is empty or behind, or so much newer that functions are gone.
    """
    with Database(url, application_name="tasker check").connect() as connection:
        return check_connection(connection)


def check_connection(connection: psycopg.Connection[Any]) -> SchemaStatus:
    """As ``check``, on an open connection."""
    found = read_status(connection)
    if found.state is SchemaState.EMPTY:
        raise SchemaVersionError("the database has no Tasker schema", hint="run `tasker db migrate`")
    if found.state is SchemaState.BEHIND:
        raise SchemaVersionError(
            f"the database's schema is behind this release: {_lag(found)}", hint="run `tasker db migrate`"
        )
    if found.state is SchemaState.NEWER and found.functions.added:
        raise SchemaVersionError(
            f"Tasker {found.our_release} is too old for this database, migrated by {found.release}:"
            f" {', '.join(f'tasker.{name}' for name in found.functions.added)} are gone",
            hint="install the newer release here",
        )
    check_pgmq(connection)
    return found


def read_status(connection: psycopg.Connection[Any]) -> SchemaStatus:
    """As ``status``, on an open connection."""
    known = _revisions()
    if not known:
        raise SchemaVersionError(
            "migrations/versions has no revision", hint="install Tasker again: its files are incomplete"
        )
    head = max(known)
    revision = _scalar(connection, "tasker.alembic_version", "SELECT version_num FROM tasker.alembic_version")
    newest = _newest_release(connection)
    functions = compare(load_function_files(), applied_digests(connection))
    ours = release()
    if revision is None:
        state = SchemaState.EMPTY
    elif revision not in known or (newest is not None and Version(newest) > Version(ours)):
        state = SchemaState.NEWER
    elif revision != head or functions:
        state = SchemaState.BEHIND
    else:
        state = SchemaState.CURRENT
    return SchemaStatus(state, revision, head, newest, ours, functions, _pgmq(connection), existing_roles(connection))


def ddl() -> str:
    """The whole schema of this release as SQL, for those who run their own migrations.

    It does to an empty database what ``migrate`` does, in one transaction, by any client. It records revision,
    functions and release, so that a later ``tasker db migrate`` goes on from there.
    """
    revisions = io.StringIO()
    from alembic import command

    config = _alembic_config()
    config.output_buffer = revisions
    command.upgrade(config, "head", sql=True)
    tables = revisions.getvalue().replace("BEGIN;\n", "", 1).rstrip().removesuffix("COMMIT;")
    files = load_function_files()
    parts = [
        f"-- Tasker {release()}: the whole schema, for an empty database. Made by `tasker db sql`.",
        "BEGIN;",
        "-- PGMQ: the extension where the server has it, else the same as plain SQL.\n" + pgmq_install_sql(),
        "-- Bookkeeping.\n" + _BOOKKEEPING_SQL,
        "-- Tables.\n" + tables.strip(),
        "-- Functions and views.\nSET LOCAL check_function_bodies = off;",
        *(_function_ddl(file) for file in _by_need(files)),
        "-- The transitions allowed, as constraints.\n" + _TRANSITION_CHECKS_SQL,
        "-- Roles and rights.\n" + roles_sql(),
        "-- Audit partitions.\n" + INITIAL_PARTITIONS_SQL,
        _RECORD_RELEASE_SQL.format(release=f"'{release()}'") + ";",
        "COMMIT;",
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _migrate_locked(connection: Connection) -> MigrationReport:
    from alembic import command

    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    raw.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
    # Only now: another process may have migrated while this one waited for the lock.
    before = read_status(raw)
    if before.state is SchemaState.NEWER:
        raise SchemaVersionError(
            f"the database was migrated by Tasker {before.release or '(unknown)'} (revision {before.revision});"
            f" this is {before.our_release} (revision {before.head}) and applies nothing",
            hint="install the newer release here; it can work with the database as it is if `tasker db status` says so",
        )
    if _done(before):
        return MigrationReport(
            before.revision, before.head, FunctionChanges(), False, (), _missing(before.roles), False
        )
    raw.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
    try:
        installed = ensure_pgmq(raw)
        raw.execute(_BOOKKEEPING_SQL.encode())
        command.upgrade(_alembic_config(connection), "head")
        apply(raw, load_function_files(), before.functions)
        roles = ensure_roles(raw)
        raw.execute(_TRANSITION_CHECKS_SQL.encode())
        raw.execute(INITIAL_PARTITIONS_SQL.encode())
    except pg_errors.LockNotAvailable as error:
        raise SchemaVersionError(
            f"a table stayed locked for {_LOCK_TIMEOUT_MS / 1000:g} s; nothing was changed",
            hint="look for a long transaction (pg_stat_activity) and run `tasker db migrate` again",
        ) from error
    raw.execute(_RECORD_RELEASE_SQL.format(release="%s").encode(), (before.our_release,))
    return MigrationReport(before.revision, before.head, before.functions, installed, (), _missing(roles), True)


def _migrating(url: str | URL) -> Database:
    """Statements of a migration take as long as they take; only a process that is about to end does not wait."""
    return Database(url, statement_timeout_ms=None, application_name="tasker migrate")


@contextmanager
def _transaction(url: str | URL) -> Iterator[Connection]:
    """One SQLAlchemy connection in one transaction: for Alembic; all else uses the psycopg one inside."""
    database = _migrating(url)
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: database.connect(autocommit=False),
        poolclass=NullPool,
        isolation_level="READ COMMITTED",
    )
    try:
        with engine.begin() as connection:
            yield connection
    except DBAPIError as error:
        # That a connection is lost is found out by SQLAlchemy too, when it would roll back.
        if isinstance(error.orig, psycopg.Error):
            raise error.orig from error
        raise
    finally:
        engine.dispose()


def _revisions() -> frozenset[str]:
    """By the names of their files: every process asks at its start, and has no other use for Alembic."""
    return frozenset(
        path.name[:4] for path in (resource_dir("migrations") / "versions").glob("[0-9][0-9][0-9][0-9]_*.py")
    )


def _alembic_config(connection: Connection | None = None) -> Config:
    from alembic.config import Config

    config = Config(attributes={} if connection is None else {"connection": connection})
    config.set_main_option("script_location", str(resource_dir("migrations")).replace("%", "%%"))
    return config


def _newest_release(connection: psycopg.Connection[Any]) -> str | None:
    if _missing_table(connection, "tasker.schema_releases"):
        return None
    releases = [text for (text,) in connection.execute("SELECT release FROM tasker.schema_releases").fetchall()]
    return max(releases, key=Version, default=None)


def _scalar(connection: psycopg.Connection[Any], table: str, query: str) -> str | None:
    if _missing_table(connection, table):
        return None
    row = connection.execute(query.encode()).fetchone()
    return None if row is None else str(row[0])


def _missing_table(connection: psycopg.Connection[Any], table: str) -> bool:
    return connection.execute("SELECT to_regclass(%s)", (table,)).fetchone() == (None,)


def _pgmq(connection: psycopg.Connection[Any]) -> str | None:
    row = connection.execute(
        "SELECT (SELECT extversion FROM pg_extension WHERE extname = 'pgmq'), to_regnamespace('pgmq') IS NOT NULL"
    ).fetchone()
    assert row is not None
    version, exists = row
    return f"extension {version}" if version is not None else "sql" if exists else None


def _done(found: SchemaStatus) -> bool:
    """Nothing to apply and our release on record, so that older ones know about it."""
    return found.state is SchemaState.CURRENT and found.release == found.our_release


def _missing(roles: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(role for role in ROLES if role not in roles)


def _lag(found: SchemaStatus) -> str:
    reasons = []
    if found.revision != found.head:
        reasons.append(f"revision {found.revision}, wanted {found.head}")
    for label, names in (
        ("missing", found.functions.added),
        ("changed", found.functions.changed),
        ("left over", found.functions.vanished),
    ):
        if names:
            reasons.append(f"{len(names)} functions {label} ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})")
    return "; ".join(reasons)


def _by_need(files: dict[str, FunctionFile]) -> list[FunctionFile]:
    """Functions before views: a view is checked when it is made, a function's body is not."""
    return sorted(files.values(), key=lambda file: (_VIEW.search(file.text) is not None, file.name))


def _function_ddl(file: FunctionFile) -> str:
    return (
        f"{file.text.rstrip()}\n\n"
        "INSERT INTO tasker.schema_functions (name, digest, signatures, applied_at)\n"
        f"VALUES ('{file.name}', '{file.digest}', {signatures_sql(file.name)}, clock_timestamp());"
    )
