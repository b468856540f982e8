"""Functions and views as files: read from ``migrations/functions``, applied when their text changed.

One file holds one ``CREATE OR REPLACE FUNCTION`` (or ``VIEW``) named like the file, with its comments. What was applied
is recorded by digest in ``tasker.schema_functions``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors as pg_errors

from tasker.config.resources import resource_dir
from tasker.errors import SchemaVersionError

_NOT_YET = (pg_errors.UndefinedFunction, pg_errors.UndefinedTable, pg_errors.UndefinedObject)
_NOT_REPLACEABLE = (pg_errors.InvalidFunctionDefinition, pg_errors.InvalidTableDefinition, pg_errors.WrongObjectType)

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_OBJECTS_SQL = """
    SELECT CASE prokind WHEN 'p' THEN 'PROCEDURE' WHEN 'a' THEN 'AGGREGATE' ELSE 'FUNCTION' END,
           format('tasker.%I(%s)', proname, pg_get_function_identity_arguments(oid))
      FROM pg_proc WHERE pronamespace = 'tasker'::regnamespace AND proname = '{name}'
     UNION ALL
    SELECT CASE relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END, format('tasker.%I', relname)
      FROM pg_class WHERE relnamespace = 'tasker'::regnamespace AND relname = '{name}' AND relkind IN ('v', 'm')
"""


@dataclass(frozen=True)
class FunctionFile:
    """One function or view of schema ``tasker``.

    Attributes:
        name: the object's name, which is the file's.
        text: the file's SQL.
        digest: SHA-256 of the text, in hex.
    """

    name: str
    text: str
    digest: str


@dataclass(frozen=True)
class FunctionChanges:
    """What distinguishes the files from what a database has: names, sorted."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.vanished)


def load_function_files(directory: Path | None = None) -> dict[str, FunctionFile]:
    """All function files by name, from ``directory`` (``migrations/functions`` when ``None``)."""
    directory = directory or resource_dir("migrations") / "functions"
    files = {}
    for path in sorted(directory.glob("*.sql")):
        if _NAME.fullmatch(path.stem) is None:
            raise SchemaVersionError(f"{path}: a function's file is named like the function, in lower case")
        text = path.read_text(encoding="utf-8")
        files[path.stem] = FunctionFile(path.stem, text, hashlib.sha256(text.encode()).hexdigest())
    return files


def compare(files: dict[str, FunctionFile], applied: dict[str, str]) -> FunctionChanges:
    """How ``files`` differ from ``applied``, the digests that a database recorded by name."""
    return FunctionChanges(
        added=tuple(sorted(files.keys() - applied.keys())),
        changed=tuple(sorted(name for name in files.keys() & applied.keys() if files[name].digest != applied[name])),
        vanished=tuple(sorted(applied.keys() - files.keys())),
    )


def applied_digests(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """The digests recorded in the database, by name; empty before the first migration."""
    if connection.execute("SELECT to_regclass('tasker.schema_functions')").fetchone() == (None,):
        return {}
    return dict(connection.execute("SELECT name, digest FROM tasker.schema_functions").fetchall())


def apply(connection: psycopg.Connection[Any], files: dict[str, FunctionFile], changes: FunctionChanges) -> None:
    """Bring the database's functions and views to the text of ``files``, inside the caller's transaction.

    Order does not matter: bodies are not checked here (a test has plpgsql_check do it), and a file whose signature or
    view needs another one waits for the next round. An object that cannot be replaced because its result or its
    parameters changed is dropped and made anew, and overloads left behind by an earlier signature are dropped.

    Raises:
        SchemaVersionError: a file does not apply; the message names it.
    """
    connection.execute("SET LOCAL check_function_bodies = off")
    waiting = [files[name] for name in (*changes.added, *changes.changed)]
    try:
        with connection.transaction():
            _apply_all(connection, waiting, changes.vanished)
    except pg_errors.DependentObjectsStillExist:
        # Something that must be dropped is used by views. Ours are made anew; others' are others' to decide about.
        views = [file for file in files.values() if _drop_view(connection, file.name)]
        _apply_all(connection, list(dict.fromkeys([*waiting, *views])), changes.vanished)
    connection.execute("RESET check_function_bodies")


def _apply_all(connection: psycopg.Connection[Any], waiting: Sequence[FunctionFile], vanished: Iterable[str]) -> None:
    for name in vanished:
        _drop(connection, _objects(connection, name))
        connection.execute("DELETE FROM tasker.schema_functions WHERE name = %s", (name,))
    while waiting:
        postponed, reason = _round(connection, waiting)
        if len(postponed) == len(waiting):
            names = ", ".join(f"{file.name}.sql" for file in postponed)
            raise SchemaVersionError(f"migrations/functions does not apply: {names}: {reason}") from reason
        waiting = postponed


def _round(
    connection: psycopg.Connection[Any], files: Sequence[FunctionFile]
) -> tuple[list[FunctionFile], psycopg.Error | None]:
    postponed: list[FunctionFile] = []
    reason: psycopg.Error | None = None
    for file in files:
        try:
            with connection.transaction():
                _apply_one(connection, file)
        except _NOT_YET as error:
            postponed.append(file)
            reason = error
        except pg_errors.DependentObjectsStillExist:
            raise
        except psycopg.Error as error:
            raise SchemaVersionError(f"migrations/functions/{file.name}.sql does not apply: {error}") from error
    return postponed, reason


def _apply_one(connection: psycopg.Connection[Any], file: FunctionFile) -> None:
    before = _objects(connection, file.name)
    try:
        with connection.transaction():
            connection.execute(file.text.encode())
    except _NOT_REPLACEABLE:
        if not before:
            raise
        _drop(connection, before)
        before = []
        connection.execute(file.text.encode())
    after = _objects(connection, file.name)
    if not after:
        raise SchemaVersionError(f"migrations/functions/{file.name}.sql must create tasker.{file.name}, and does not")
    if len(after) > len(before) > 0:
        _drop(connection, before)
    connection.execute(
        "INSERT INTO tasker.schema_functions (name, digest, signatures, applied_at)"
        " VALUES (%s, %s, %s, clock_timestamp())"
        " ON CONFLICT (name) DO UPDATE SET digest = excluded.digest, signatures = excluded.signatures,"
        " applied_at = excluded.applied_at",
        (file.name, file.digest, [identity for _, identity in _objects(connection, file.name)]),
    )


def _objects(connection: psycopg.Connection[Any], name: str) -> list[tuple[str, str]]:
    """Functions, procedures and views of that name in schema ``tasker``: kind and identity, as DROP takes them."""
    return connection.execute(_OBJECTS_SQL.format(name=name).encode()).fetchall()


def signatures_sql(name: str) -> str:
    """An SQL expression: the identities of all functions and views of that name, as ``apply`` records them."""
    return f"ARRAY(SELECT identity FROM ({_OBJECTS_SQL.format(name=name)}) AS made (kind, identity))"


def _drop_view(connection: psycopg.Connection[Any], name: str) -> bool:
    """Drop the view of that name; whether there was one."""
    views = [(kind, identity) for kind, identity in _objects(connection, name) if kind == "VIEW"]
    _drop(connection, views)
    return bool(views)


def _drop(connection: psycopg.Connection[Any], objects: Iterable[tuple[str, str]]) -> None:
    for kind, identity in objects:
        connection.execute(f"DROP {kind} {identity}".encode())  # both come from the catalog
