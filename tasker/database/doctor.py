"""Examines a database for what makes Tasker slow, stuck or unsafe; changes nothing.

Each check is one bounded query. A *problem* stops something from working, a *warning* will cost time or safety.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from sqlalchemy.engine import URL

from tasker.database import migrations
from tasker.database.connection import Database
from tasker.database.partitions import DAYS_AHEAD, open_partitions
from tasker.database.roles import ROLES, existing_roles
from tasker.errors import SchemaVersionError

Verdict = Literal["ok", "warning", "problem"]
Connection = psycopg.Connection[Any]

_OLDEST_SERVER, _NEWEST_TESTED = 14, 18
_LONG_TRANSACTION = dt.timedelta(minutes=5)
_LATE_SCHEDULE = dt.timedelta(minutes=5)
_MANY_DEAD = 0.3
_FEW_ROWS = 10_000
_CONNECTIONS_USED = 0.85
_CLOCK_SKEW_SECONDS = 5.0
_HOT_TABLES = ("tasks", "workflow_steps", "step_claims", "step_timers", "executors", "named_steps")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what.
        verdict: ``ok``, ``warning`` or ``problem``.
        detail: what was found.
        advice: what to do about it, where something should be done.
    """

    check: str
    verdict: Verdict
    detail: str
    advice: str | None = None


def examine(url: str | URL) -> list[Finding]:
    """All findings about the database at ``url``.

    Raises:
        psycopg.OperationalError: it cannot be reached.
    """
    with Database(url, statement_timeout_ms=10_000, application_name="tasker doctor").connect() as connection:
        findings = [*_server(connection), *_durability(connection), *_connections(connection)]
        schema = _schema(connection)
        findings += [schema, *_roles(connection)]
        if schema.verdict != "problem":
            for check in _CHECKS_OF_SCHEMA:
                findings += check(connection)
        return findings


def _server(connection: Connection) -> Iterator[Finding]:
    version = connection.info.server_version // 10_000
    detail = f"PostgreSQL {connection.info.parameter_status('server_version')}"
    if version < _OLDEST_SERVER:
        yield Finding("server version", "problem", detail, f"PostgreSQL {_OLDEST_SERVER} or newer is needed")
    elif version > _NEWEST_TESTED:
        yield Finding("server version", "warning", detail, f"Tasker is tested up to PostgreSQL {_NEWEST_TESTED}")
    else:
        yield Finding("server version", "ok", detail)
    theirs: dt.datetime = _one(connection, "SELECT clock_timestamp()")
    skew = abs((dt.datetime.now(dt.UTC) - theirs).total_seconds())
    yield Finding(
        "clock",
        "ok" if skew < _CLOCK_SKEW_SECONDS else "warning",
        f"differs from this machine's by {skew:.1f} s",
        None if skew < _CLOCK_SKEW_SECONDS else "let both follow NTP: run_at and partitions go by the server's clock",
    )


def _durability(connection: Connection) -> Iterator[Finding]:
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        value = _one(connection, "SELECT current_setting(%s)", name)
        if value == "off":
            yield Finding(name, "warning", "off", "a crash of the server may lose what was committed; set it on")
        else:
            yield Finding(name, "ok", value)


def _connections(connection: Connection) -> Iterator[Finding]:
    used, most = _row(
        connection,
        "SELECT count(*) FILTER (WHERE backend_type = 'client backend'),"
        " current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
        " FROM pg_stat_activity",
    )
    full = used / max(most, 1) > _CONNECTIONS_USED
    yield Finding(
        "connections",
        "warning" if full else "ok",
        f"{used} of {most} in use",
        "fewer or smaller pools (database.pool.max_connections), or a higher max_connections" if full else None,
    )


def _schema(connection: Connection) -> Finding:
    try:
        found = migrations.check_connection(connection)
    except SchemaVersionError as error:
        return Finding("schema", "problem", error.message, error.hint)
    detail = f"{found.state.value}, revision {found.revision}, release {found.release}; PGMQ: {found.pgmq}"
    return Finding("schema", "ok", detail)


def _roles(connection: Connection) -> Iterator[Finding]:
    missing = [role for role in ROLES if role not in existing_roles(connection)]
    if missing:
        yield Finding(
            "roles",
            "warning",
            f"{', '.join(missing)} do not exist; the schema's owner does all",
            "run `tasker db migrate` as a login that may create roles",
        )
    else:
        yield Finding("roles", "ok", ", ".join(ROLES))


def _partitions(connection: Connection) -> Iterator[Finding]:
    now: dt.datetime = _one(connection, "SELECT clock_timestamp()")
    for partition in open_partitions(connection):
        days = (partition.starts_at - now).days
        late = days < DAYS_AHEAD // 2
        yield Finding(
            f"partitions of {partition.parent}",
            "warning" if late else "ok",
            f"{max(days, 0)} days ahead",
            "run `tasker db migrate`, and see that the coordinator ticks" if late else None,
        )


def _bloat(connection: Connection) -> Iterator[Finding]:
    rows = connection.execute(
        "SELECT relname, n_live_tup, n_dead_tup, pg_size_pretty(pg_total_relation_size(relid)),"
        " greatest(last_autovacuum, last_vacuum)"
        " FROM pg_stat_user_tables WHERE schemaname = 'tasker' AND relname = ANY (%s)"
        " OR schemaname = 'pgmq' AND relname LIKE 'q\\_%%' ORDER BY schemaname, relname",
        (list(_HOT_TABLES),),
    )
    for name, live, dead, size, vacuumed in rows.fetchall():
        bloated = dead > _FEW_ROWS and dead > _MANY_DEAD * (live + dead)
        yield Finding(
            f"table {name}",
            "warning" if bloated else "ok",
            f"{live} rows, {dead} dead, {size}, vacuumed {_when(vacuumed)}",
            "autovacuum does not keep up: look for long transactions, or let it work harder" if bloated else None,
        )


def _when(moment: dt.datetime | None) -> str:
    return "never" if moment is None else moment.isoformat(timespec="seconds")


def _long_transactions(connection: Connection) -> Iterator[Finding]:
    rows = connection.execute(
        "SELECT pid, application_name, state, clock_timestamp() - xact_start FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start < clock_timestamp() - %s"
        " AND backend_type = 'client backend' ORDER BY xact_start LIMIT 5",
        (_LONG_TRANSACTION,),
    ).fetchall()
    for pid, application, state, age in rows:
        yield Finding(
            "long transaction",
            "warning",
            f"{application or 'unnamed'} (pid {pid}, {state}) since {dt.timedelta(seconds=round(age.total_seconds()))}",
            "end it: while it lasts, no dead row after its start can be removed",
        )
    if not rows:
        yield Finding("long transactions", "ok", "none older than 5 minutes")


def _coordinator(connection: Connection) -> Iterator[Finding]:
    executors, age = _row(
        connection,
        "SELECT (SELECT count(*) FROM tasker.executors WHERE lost_at IS NULL),"
        " (SELECT clock_timestamp() - last_tick_at FROM tasker.coordinator)",
    )
    if age is None:
        verdict: Verdict = "warning" if executors else "ok"
        detail = "never ticked"
    else:
        verdict = "warning" if executors and age > dt.timedelta(minutes=1) else "ok"
        detail = f"last ticked {dt.timedelta(seconds=round(age.total_seconds()))} ago"
    advice = "start `celery -A tasker beat`, or an orchestration worker" if verdict == "warning" else None
    yield Finding("coordinator", verdict, f"{detail}; {executors} executors", advice)


def _schedules(connection: Connection) -> Iterator[Finding]:
    rows = connection.execute(
        "SELECT name, next_due_at, failure FROM tasker.schedules WHERE paused_at IS NULL"
        " AND (failure IS NOT NULL OR next_due_at < tasker.now() - %s) ORDER BY next_due_at LIMIT 5",
        (_LATE_SCHEDULE,),
    ).fetchall()
    for name, due_at, failure in rows:
        yield Finding(
            f"schedule {name}",
            "warning",
            failure or f"its slot of {_when(due_at)} is not fired",
            "mend that, or `tasker schedule pause` it" if failure else "run an orchestration worker",
        )
    if not rows:
        yield Finding("schedules", "ok", f"{_one(connection, 'SELECT count(*) FROM tasker.schedules')}, none late")


def _dead_letters(connection: Connection) -> Iterator[Finding]:
    # At most a thousand are counted: no list of complaints is read further than that.
    count = _one(
        connection, "SELECT count(*) FROM (SELECT FROM tasker.dead_letters WHERE resolved_at IS NULL LIMIT 1000) AS few"
    )
    yield Finding(
        "dead letters",
        "warning" if count else "ok",
        f"{count if count < 1000 else '1000 or more'} open",
        "`tasker task list --state error` shows the tasks; `tasker task why UUID` the reason" if count else None,
    )


_CHECKS_OF_SCHEMA: tuple[Callable[[Connection], Iterator[Finding]], ...] = (
    _partitions,
    _coordinator,
    _schedules,
    _dead_letters,
    _long_transactions,
    _bloat,
)


def _row(connection: Connection, query: str, *parameters: Any) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(query.encode(), parameters or None).fetchone()
    assert row is not None
    return row


def _one(connection: Connection, query: str, *parameters: Any) -> Any:
    return _row(connection, query, *parameters)[0]
