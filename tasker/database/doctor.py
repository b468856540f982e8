"""Examines a database for what makes Tasker slow, stuck or unsafe; changes nothing.

Each check is one bounded query. A *problem* stops something from working, a *warning* will cost time or safety.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import sql
from sqlalchemy.engine import URL

from tasker.database import migrations
from tasker.database.connection import Database
from tasker.database.partitions import AUDIT_TABLES, DAYS_AHEAD, open_partitions
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
_HOT_TABLES = (
    *("tasks", "workflow_steps", "task_contexts", "task_identities", "dead_letters", "limit_holders"),
    *("step_claims", "step_timers", "executors", "named_steps", "coordinator"),
)
_MANY_FREE = 0.6
"""Tables keep free space on their pages (fillfactor 50 to 70) so that updates stay there."""
_MUCH_FREE_BYTES = 100_000_000
_LOCK_WAIT = dt.timedelta(seconds=1)
_OLD_SNAPSHOT = dt.timedelta(minutes=15)
_MANY_TRANSACTIONS = 10_000_000
_SLOT_KEEPS_BYTES = 10_000_000_000


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
    used, most, ours, idle = _row(
        connection,
        "SELECT count(*) FILTER (WHERE backend_type = 'client backend'),"
        " current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,"
        " count(*) FILTER (WHERE backend_type = 'client backend' AND datname = current_database()"
        "                  AND application_name LIKE 'tasker%'),"
        " count(*) FILTER (WHERE backend_type = 'client backend' AND state LIKE 'idle in transaction%')"
        " FROM pg_stat_activity",
    )
    full = used / max(most, 1) > _CONNECTIONS_USED
    yield Finding(
        "connections",
        "warning" if full else "ok",
        f"{used} of {most} in use, {ours} by Tasker, {idle} idle in a transaction",
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
    found = open_partitions(connection)
    for missing in sorted(set(AUDIT_TABLES) - {partition.parent for partition in found}):
        yield Finding(
            f"partitions of {missing}",
            "problem",
            "the last one, which takes all that is to come, is missing: nothing can be written after the others end",
            "run `tasker db migrate`; if that does not help, attach one FOR VALUES FROM (…) TO (MAXVALUE)",
        )
    for partition in found:
        days = (partition.starts_at - now).days
        late = days < DAYS_AHEAD // 2
        yield Finding(
            f"partitions of {partition.parent}",
            "warning" if late else "ok",
            f"{max(days, 0)} days ahead",
            "run `tasker db migrate`, and see that the coordinator ticks" if late else None,
        )


def _bloat(connection: Connection) -> Iterator[Finding]:
    """Dead rows keep readers busy, free space keeps caches empty."""
    measure = _one(
        connection,
        "SELECT (SELECT n.nspname FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace"
        " WHERE e.extname = 'pgstattuple')",
    )
    rows = connection.execute(
        "SELECT s.schemaname, s.relname, s.n_live_tup, s.n_dead_tup, pg_total_relation_size(s.relid),"
        " pg_relation_size(s.relid), greatest(s.last_autovacuum, s.last_vacuum), w.bytes"
        " FROM pg_stat_user_tables AS s"
        # What the rows should take, by the columns' average width, with 28 bytes of header and pointer for each.
        " CROSS JOIN LATERAL (SELECT s.n_live_tup * (28 + sum(c.avg_width * (1 - c.null_frac))) AS bytes"
        "                     FROM pg_stats AS c WHERE c.schemaname = s.schemaname AND c.tablename = s.relname) AS w"
        " WHERE s.schemaname = 'tasker' AND s.relname = ANY (%s) OR s.schemaname = 'pgmq' AND s.relname LIKE 'q\\_%%'"
        " ORDER BY s.schemaname, s.relname",
        (list(_HOT_TABLES),),
    )
    for schema, name, live, dead, size, heap, vacuumed, estimate in rows.fetchall():
        free, how = _free_bytes(connection, measure, schema, name, heap, estimate)
        has_dead = dead > _FEW_ROWS and dead > _MANY_DEAD * (live + dead)
        is_empty = free is not None and free > _MUCH_FREE_BYTES and free > _MANY_FREE * heap
        advice = None
        if has_dead:
            advice = "autovacuum does not keep up: look for what holds old rows (below), or let it work harder"
        elif is_empty:
            advice = (
                "new rows fill the space; if the table stays that large, `VACUUM FULL` while nobody works, or pg_repack"
            )
        yield Finding(
            f"table {name}",
            "ok" if advice is None else "warning",
            f"{live} rows, {dead} dead, {_size(size)}{'' if free is None else f', {_size(free)} of it free ({how})'},"
            f" vacuumed {_when(vacuumed)}",
            advice,
        )


def _free_bytes(
    connection: Connection, measure: str | None, schema: str, name: str, heap: int, estimate: Any
) -> tuple[int | None, str]:
    """Bytes of a table's pages without rows, and how that is known; ``None`` where nobody has looked yet."""
    if measure is not None:
        query = sql.SQL("SELECT approx_free_space + dead_tuple_len FROM {}({})").format(
            sql.Identifier(measure, "pgstattuple_approx"), sql.Literal(sql.Identifier(schema, name).as_string())
        )
        try:
            with connection.transaction():
                row = connection.execute(query).fetchone()
        except psycopg.errors.InsufficientPrivilege:
            row = None
        if row is not None:
            return int(row[0]), "measured"
    return (None, "") if estimate is None else (max(0, heap - int(estimate)), "estimated")


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


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
            f"{application or 'unnamed'} (pid {pid}, {state}) since {_span(age)}",
            f"end it (SELECT pg_terminate_backend({pid})): while it lasts, no dead row after its start can be removed",
        )
    if not rows:
        yield Finding("long transactions", "ok", "none older than 5 minutes")


def _span(age: dt.timedelta) -> str:
    return str(dt.timedelta(seconds=round(age.total_seconds())))


def _snapshots(connection: Connection) -> Iterator[Finding]:
    """Who keeps dead rows from being removed, beside the transactions of this database."""
    holders = connection.execute(
        "SELECT 'session', format('%s (pid %s, %s)', coalesce(nullif(application_name, ''), 'unnamed'), pid, state),"
        "       age(backend_xmin), clock_timestamp() - xact_start"
        " FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()"
        # Sessions of other databases hold no rows here.
        " AND datname = current_database()"
        " UNION ALL SELECT 'replication slot', format('%s (%s)', slot_name,"
        "       CASE WHEN active THEN 'active' ELSE 'inactive' END),"
        "       greatest(age(xmin), age(catalog_xmin)), NULL"
        " FROM pg_replication_slots WHERE coalesce(xmin, catalog_xmin) IS NOT NULL"
        " UNION ALL SELECT 'standby', format('%s', coalesce(nullif(application_name, ''), client_addr::text)),"
        "       age(backend_xmin), NULL FROM pg_stat_replication WHERE backend_xmin IS NOT NULL"
        " UNION ALL SELECT 'prepared transaction', gid, age(transaction), clock_timestamp() - prepared"
        " FROM pg_prepared_xacts ORDER BY 3 DESC LIMIT 5"
    ).fetchall()
    advice = {
        "session": "end its transaction, or the session",
        "replication slot": "let its consumer go on, or drop the slot: SELECT pg_drop_replication_slot(name)",
        "standby": "its queries hold rows here (hot_standby_feedback): end the long ones there",
        "prepared transaction": "COMMIT PREPARED or ROLLBACK PREPARED it: nobody else will",
    }
    found = False
    for kind, who, transactions, age in holders:
        forgotten = kind == "prepared transaction" and age > _LONG_TRANSACTION
        if forgotten or transactions > _MANY_TRANSACTIONS or (age is not None and age > _OLD_SNAPSHOT):
            found = True
            since = "" if age is None else f", since {_span(age)}"
            yield Finding(
                f"oldest snapshot: {kind}",
                "warning",
                f"{who} keeps the dead rows of {transactions} transactions{since}",
                advice[kind],
            )
    if not found:
        oldest = f"{holders[0][0]} {holders[0][1]}, {holders[0][2]} transactions" if holders else "nobody"
        yield Finding("oldest snapshot", "ok", oldest)
    slots = connection.execute(
        "SELECT slot_name, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) FROM pg_replication_slots"
        " WHERE NOT pg_is_in_recovery() AND restart_lsn IS NOT NULL AND NOT active"
    ).fetchall()
    for name, kept in slots:
        if kept > _SLOT_KEEPS_BYTES:
            yield Finding(
                f"replication slot {name}",
                "warning",
                f"inactive, and keeps {_size(int(kept))} of WAL on the disk",
                "let its consumer go on, or drop the slot before the disk is full",
            )


def _lock_waits(connection: Connection) -> Iterator[Finding]:
    rows = connection.execute(
        "SELECT w.pid, w.application_name, clock_timestamp() - w.query_start, left(w.query, 60), h.pid,"
        "       h.application_name, h.state, clock_timestamp() - h.xact_start"
        " FROM pg_stat_activity AS w"
        " CROSS JOIN LATERAL (SELECT a.* FROM pg_stat_activity AS a WHERE a.pid = ANY (pg_blocking_pids(w.pid))"
        "                     ORDER BY a.xact_start LIMIT 1) AS h"
        " WHERE w.datname = current_database() AND w.wait_event_type = 'Lock'"
        "   AND w.query_start < clock_timestamp() - %s ORDER BY w.query_start LIMIT 10",
        (_LOCK_WAIT,),
    ).fetchall()
    for pid, name, waited, query, holder, holder_name, state, age in rows:
        yield Finding(
            "lock wait",
            "warning",
            f"{name or 'unnamed'} (pid {pid}) waits since {_span(waited)} for {holder_name or 'unnamed'} (pid {holder},"
            f" {state}, its transaction since {_span(age or dt.timedelta(0))}): {' '.join(query.split())}",
            f"end what it waits for: the program, or SELECT pg_terminate_backend({holder})",
        )
    if not rows:
        yield Finding("lock waits", "ok", f"none longer than {_LOCK_WAIT.total_seconds():g} s")


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
    _bloat,
    _long_transactions,
    _snapshots,
    _lock_waits,
)


def _row(connection: Connection, query: str, *parameters: Any) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(query.encode(), parameters or None).fetchone()
    assert row is not None
    return row


def _one(connection: Connection, query: str, *parameters: Any) -> Any:
    return _row(connection, query, *parameters)[0]
