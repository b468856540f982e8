"""A statement with its parameters, built once and executed on whatever connection there is.

psycopg and SQLAlchemy, sync and async: the statement, the parameters and the reading of the answer are the same; only
the two lines that execute differ. Errors of the SQL core come out as ``tasker.errors``, whatever the driver.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import psycopg
from psycopg.rows import tuple_row
from sqlalchemy import Executable, Select, text
from sqlalchemy import exc as sqlalchemy_errors
from sqlalchemy.dialects.postgresql import psycopg as psycopg_dialect
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.sql.elements import TextClause

from tasker.errors import InvalidRequest, SchemaVersionError, TaskerError, from_sqlstate

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

T = TypeVar("T")

Rows = Sequence[Sequence[Any]]
AnySelect: TypeAlias = "Select[*tuple[Any, ...]]"
Target: TypeAlias = "psycopg.Connection[Any] | Connection | Session | scoped_session[Any]"
"""What a call can be executed on."""
AsyncTarget: TypeAlias = "psycopg.AsyncConnection[Any] | AsyncConnection | AsyncSession | async_scoped_session[Any]"

_DIALECT = psycopg_dialect.dialect()  # type: ignore[no-untyped-call]
_NOT_MIGRATED = ("3F000", "42P01", "42883")  # no such schema, table, function
_PARAMETER = re.compile(r"%\((\w+)\)s")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One statement.

    Attributes:
        sql: the statement, with ``%(name)s`` for parameters and ``%%`` for a percent sign; parameters with another type
            than their column's are cast by ``CAST(... AS ...)``.
        parameters: their values.
        decode: turns the rows into the answer.
        statement: the same as a SQLAlchemy statement, where it was written as one.
        bound: the values of that statement's ``bindparam``s.
    """

    sql: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    decode: Callable[[Rows], T] = field(kw_only=True)
    statement: AnySelect | None = field(default=None, kw_only=True)
    bound: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    @classmethod
    def of(
        cls, statement: AnySelect, decode: Callable[[Rows], T], parameters: Mapping[str, Any] | None = None
    ) -> Call[T]:
        """The call that executes ``statement``, a SELECT on the models.

        With ``parameters``, the values of its ``bindparam``s, the statement must be one that is kept: it is compiled
        once, which takes ten times as long as PostgreSQL takes to answer.
        """
        if parameters is None:
            sql, given = _compiled(statement)
            return cls(sql, given, decode=decode, statement=statement)
        sql, given = _compiled_once(statement)
        return cls(sql, {**given, **parameters}, decode=decode, statement=statement, bound=parameters)


def _compiled(statement: AnySelect) -> tuple[str, Mapping[str, Any]]:
    compiled = statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
    return str(compiled), compiled.params


_compiled_once = lru_cache(maxsize=64)(_compiled)


def run(connection: psycopg.Connection[Any], call: Call[T]) -> T:
    """Execute ``call`` on a psycopg connection, in its transaction if it has one.

    Raises:
        TaskerError: the SQL core refused; the driver's error is its cause.
        psycopg.Error: anything else.
    """
    try:
        with connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(call.sql.encode(), call.parameters)
            rows = cursor.fetchall()
    except psycopg.Error as error:
        _raise_ours(error)
        raise
    return call.decode(rows)


async def arun(connection: psycopg.AsyncConnection[Any], call: Call[T]) -> T:
    """As ``run``, on an async connection."""
    try:
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(call.sql.encode(), call.parameters)
            rows = await cursor.fetchall()
    except psycopg.Error as error:
        _raise_ours(error)
        raise
    return call.decode(rows)


def execute(target: Target, call: Call[T]) -> T:
    """Execute ``call`` on a psycopg connection, a SQLAlchemy connection or a SQLAlchemy session.

    It becomes part of the target's transaction, which is never committed or rolled back here. A session is not flushed.

    Raises:
        TaskerError: the SQL core refused. As with any error in PostgreSQL, the transaction is to be rolled back then.
        InvalidRequest: ``target`` is nothing of the kind.
    """
    if isinstance(target, psycopg.Connection):
        return run(target, call)
    if isinstance(target, (Session, scoped_session)):
        target = target.connection()
    if not isinstance(target, Connection):
        raise _not_a_target(target, asynchronous=False)
    try:
        rows = target.execute(*_for_sqlalchemy(call)).fetchall()
    except sqlalchemy_errors.DBAPIError as error:
        _raise_ours(error.orig, cause=error)
        raise
    return call.decode(rows)


async def aexecute(target: AsyncTarget, call: Call[T]) -> T:
    """As ``execute``, on an async connection or session."""
    if isinstance(target, psycopg.AsyncConnection):
        return await arun(target, call)
    # Whoever has one of these has imported the module; it needs greenlet, which others need not have.
    asyncio = sys.modules.get("sqlalchemy.ext.asyncio")
    if asyncio is not None and isinstance(target, (asyncio.AsyncSession, asyncio.async_scoped_session)):
        target = await target.connection()
    if asyncio is None or not isinstance(target, asyncio.AsyncConnection):
        raise _not_a_target(target, asynchronous=True)
    try:
        rows = (await target.execute(*_for_sqlalchemy(call))).fetchall()
    except sqlalchemy_errors.DBAPIError as error:
        _raise_ours(error.orig, cause=error)
        raise
    return call.decode(rows)


def first_value(rows: Rows) -> Any:
    """The one value of a one-row, one-column answer."""
    return rows[0][0]


def nothing(_rows: Rows) -> None:
    """The answer of a statement that has none."""


def _for_sqlalchemy(call: Call[Any]) -> tuple[Executable, dict[str, Any]]:
    if call.statement is not None:
        return call.statement, dict(call.bound)
    return _text(call.sql), dict(call.parameters)


@lru_cache(maxsize=256)
def _text(sql: str) -> TextClause:
    return text(_PARAMETER.sub(r":\1", sql).replace("%%", "%"))


def _raise_ours(error: BaseException | None, *, cause: BaseException | None = None) -> None:
    """Raise the exception that stands for the SQLSTATE of a driver's ``error``, if it is one of Tasker's."""
    ours = translate(error) or _schema_error(error)
    if ours is not None:
        raise ours from (cause or error)


def translate(error: BaseException | None) -> TaskerError | None:
    """The exception of ``tasker.errors`` for a driver's ``error``, ``None`` where the SQL core did not raise it.

    Knows psycopg's errors, psycopg2's, and asyncpg's as SQLAlchemy wraps them.
    """
    sqlstate = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if not isinstance(sqlstate, str):
        return None
    diagnostics = getattr(error, "diag", None)
    if diagnostics is not None:
        message, hint, detail, column = (
            getattr(diagnostics, name) for name in ("message_primary", "message_hint", "message_detail", "column_name")
        )
    else:
        original = error.__cause__ if error is not None and error.__cause__ is not None else error
        message, hint, detail, column = (
            getattr(original, name, None) for name in ("message", "hint", "detail", "column_name")
        )
    return from_sqlstate(sqlstate, message or str(error), hint=hint, field=column, detail=detail)


def _schema_error(error: BaseException | None) -> SchemaVersionError | None:
    """A function, a table or all of Tasker's schema is not there: the database was not migrated, or not far enough."""
    sqlstate = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if sqlstate not in _NOT_MIGRATED or not re.search(r"\btasker\b", str(error)):
        return None
    return SchemaVersionError(
        f"the database lacks a part of Tasker's schema: {str(error).splitlines()[0]}", hint="run `tasker db migrate`"
    )


def _not_a_target(target: object, *, asynchronous: bool) -> InvalidRequest:
    wanted = (
        "a psycopg AsyncConnection, or a SQLAlchemy AsyncConnection or AsyncSession"
        if asynchronous
        else "a psycopg Connection, or a SQLAlchemy Connection or Session"
    )
    kind = type(target)
    hint = None
    if kind.__name__.lower().startswith("async"):
        hint = "use the method whose name begins with a, such as acreate"
    elif isinstance(target, (psycopg.Connection, Connection, Session)):
        hint = "use the method whose name does not begin with a, such as create"
    return InvalidRequest(
        f"connection must be {wanted}, not {kind.__module__}.{kind.__qualname__}", hint=hint, field="connection"
    )
