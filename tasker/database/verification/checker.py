"""Checks all rules in one snapshot of a database, whoever else works on it meanwhile.

One transaction, REPEATABLE READ and READ ONLY: every rule sees the same committed moment, so that nothing under way
looks like a mistake. No row is locked. Each check is one statement that goes through its rows once, in the memory that
the server grants a statement; this process holds only the examples.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from sqlalchemy.engine import URL

from tasker.database import migrations
from tasker.database.connection import Database
from tasker.database.function_files import load_function_files
from tasker.database.partitions import EARLY
from tasker.database.verification import history, schema, steps, tasks, work
from tasker.database.verification.rule import Check, Rule
from tasker.errors import InvalidRequest

# Those that read the audit tables come last: from then on their partitions can be neither attached nor detached.
CHECKS: tuple[Check, ...] = (*schema.CHECKS, *tasks.CHECKS, *steps.CHECKS, *work.CHECKS, *history.CHECKS)
RULES: dict[str, Rule] = {rule.name: rule for check in CHECKS for rule in check.rules}
"""All rules by name."""

EXAMPLES = 10
TIMEOUT_SECONDS = 600.0

_LOCK_TIMEOUT = "10s"
_WORK_MEM = "64MB"
_AUDIT_TABLES = {
    "steps": "workflow_step_transitions",
    "tasks": "task_transitions",
    "attempts": "finalization_attempts",
}
_INDEX = re.compile(r"CREATE (?:UNIQUE )?INDEX (\w+)\s+ON tasker\.(?!\w+_p\d{8})")
_PRIMARY_KEY = re.compile(r"CREATE TABLE tasker\.(\w+) \((?:(?!\n\)).)*?PRIMARY KEY", re.DOTALL)
_BODY = re.compile(r"\bAS \$\$(.*)\$\$", re.DOTALL)
_VIEW = re.compile(r"CREATE (?:OR REPLACE )?VIEW", re.IGNORECASE)


@dataclass(frozen=True)
class Example:
    """One row that breaks a rule.

    Attributes:
        task_uuid: the task, where the rule is about tasks.
        position: the step's place in its workflow, where the rule is about steps.
        map_index: as ``position``.
        detail: what is wrong.
    """

    task_uuid: UUID | None
    position: int | None
    map_index: int | None
    detail: str

    def __str__(self) -> str:
        where = "" if self.task_uuid is None else f"task {self.task_uuid}"
        where += "" if self.position is None else f" step {self.position}"
        where += f"[{self.map_index}]" if self.map_index else ""
        return f"{where}: {self.detail}" if where else self.detail


@dataclass(frozen=True)
class Finding:
    """A rule that does not hold.

    Attributes:
        rule: which.
        count: how many rows break it.
        examples: some of them.
    """

    rule: Rule
    count: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        at: the moment of the snapshot, by the server's clock.
        rules: the rules that were checked.
        findings: those that do not hold; violations first.
        unchecked: rules that could not be checked, with the reason.
        history_from: for each audit table, from when on its history is kept; ``None``: from the beginning.
        seconds: how long it took, by the name of the check.
    """

    at: dt.datetime
    rules: tuple[Rule, ...]
    findings: tuple[Finding, ...]
    unchecked: Mapping[str, str]
    history_from: Mapping[str, dt.datetime | None]
    seconds: Mapping[str, float]

    @property
    def violations(self) -> tuple[Finding, ...]:
        """What is not legal."""
        return tuple(finding for finding in self.findings if finding.rule.severity == "violation")

    @property
    def pending(self) -> tuple[Finding, ...]:
        """What the engine will put right by itself."""
        return tuple(finding for finding in self.findings if finding.rule.severity == "pending")


@dataclass(frozen=True)
class Scope:
    """Which tasks are asked about; all, by default.

    Attributes:
        task: this one.
        namespace: those of its workflows.
        since: those that something happened to since then.
    """

    task: UUID | None = None
    namespace: str | None = None
    since: dt.datetime | None = None

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return self == Scope()

    def condition(self, uuid: str) -> str:
        """SQL: the expression ``uuid`` is the uuid of a task asked for."""
        parts = []
        if self.task is not None:
            parts.append(f"{uuid} = {_literal(self.task)}")
        if self.namespace is not None:
            parts.append(
                f"{uuid} IN (SELECT z.task_uuid FROM tasker.tasks AS z JOIN tasker.named_tasks AS zd"
                f" ON zd.named_task_id = z.named_task_id WHERE zd.namespace = {_literal(self.namespace)})"
            )
        if self.since is not None:
            since = _literal(self.since)
            parts.append(
                f"{uuid} IN (SELECT z.task_uuid FROM tasker.task_transitions AS z WHERE z.at >= {since}"
                f" UNION SELECT z.task_uuid FROM tasker.workflow_step_transitions AS z WHERE z.at >= {since})"
            )
        return " AND ".join(parts) or "true"


@dataclass
class Progress:
    """How far a run is, for those who watch."""

    check: Check
    number: int
    of: int


@dataclass
class _Found:
    findings: list[Finding] = field(default_factory=list)
    unchecked: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def verify(
    url: str | URL,
    *,
    task: UUID | str | None = None,
    namespace: str | None = None,
    since: dt.datetime | None = None,
    rules: Collection[str] | None = None,
    examples: int = EXAMPLES,
    timeout_seconds: float = TIMEOUT_SECONDS,
    watch: Callable[[Progress], object] | None = None,
) -> Report:
    """Check the rules on the database at ``url``; changes nothing, and locks no row.

    Args:
        url: the database, or a physical replica of it.
        task: only what belongs to this task.
        namespace: only what belongs to tasks of this namespace's workflows.
        since: only what belongs to tasks that something happened to since then.
        rules: names of rules; all when ``None``. With a task, namespace or time, rules that are not about tasks
            (schema, executors, queues) are left out.
        examples: most rows to describe for each rule.
        timeout_seconds: longest time for one statement; rules that need longer are reported as unchecked.
        watch: called before each check.

    Raises:
        InvalidRequest: there is no such rule, or the task's uuid is none.
        SchemaVersionError: the schema is not that of this release.
        psycopg.OperationalError: the database cannot be reached.
    """
    database = Database(url, statement_timeout_ms=round(timeout_seconds * 1000), application_name="tasker verify")
    with database.connect() as connection:
        migrations.check_connection(connection)
        return verify_connection(
            connection,
            task=task,
            namespace=namespace,
            since=since,
            rules=rules,
            examples=examples,
            timeout_seconds=timeout_seconds,
            watch=watch,
        )


def verify_connection(
    connection: psycopg.Connection[Any],
    *,
    task: UUID | str | None = None,
    namespace: str | None = None,
    since: dt.datetime | None = None,
    rules: Collection[str] | None = None,
    examples: int = EXAMPLES,
    timeout_seconds: float = TIMEOUT_SECONDS,
    watch: Callable[[Progress], object] | None = None,
) -> Report:
    """As ``verify``, on an open connection (with its clock); inside its transaction, if it is in one.

    The caller has seen to it that the schema is this release's. A transaction of the caller's own should be REPEATABLE
    READ; what it has changed is judged as if it were committed.
    """
    scope = Scope(_uuid(task), namespace, since)
    chosen = _choose(rules, scope)
    with _snapshot(connection, timeout_seconds, planned_for_all=scope.is_all):
        moment, now = _row(connection, "SELECT transaction_timestamp(), tasker.now()")
        fragments = _fragments(connection, moment, now)
        kept: dict[str, dt.datetime | None] = {}
        found = _Found()
        for number, (check, wanted) in enumerate(chosen, 1):
            if watch is not None:
                watch(Progress(check, number, len(chosen)))
            if check.reads_history and not kept:
                kept = _history_from(connection)
                fragments |= _history_fragments(kept)
            _run(connection, check, wanted, check.statement(wanted, examples, scope.condition, fragments), found)
        if not kept:
            kept = dict.fromkeys(_AUDIT_TABLES)
    return Report(
        at=moment,
        rules=tuple(rule for _, wanted in chosen for rule in wanted if rule.name not in found.unchecked),
        findings=tuple(sorted(found.findings, key=lambda finding: finding.rule.severity == "pending")),
        unchecked=found.unchecked,
        history_from={table: kept[name] for name, table in _AUDIT_TABLES.items()},
        seconds=found.seconds,
    )


def _uuid(task: UUID | str | None) -> UUID | None:
    try:
        return UUID(task) if isinstance(task, str) else task
    except ValueError as error:
        raise InvalidRequest(f"{task!r} is not a uuid", field="task") from error


def _choose(names: Collection[str] | None, scope: Scope) -> list[tuple[Check, tuple[Rule, ...]]]:
    unknown = sorted(set(names or ()) - RULES.keys())
    if unknown:
        raise InvalidRequest(
            f"there is no rule {', '.join(unknown)}", hint="`tasker db verify --list` names them", field="rule"
        )
    chosen = []
    for check in CHECKS:
        if check.task is None and not scope.is_all:
            continue
        wanted = tuple(rule for rule in check.rules if names is None or rule.name in names)
        if wanted:
            chosen.append((check, wanted))
    return chosen


def _run(
    connection: psycopg.Connection[Any], check: Check, rules: Sequence[Rule], statement: str, found: _Found
) -> None:
    began = time.monotonic()
    try:
        with connection.transaction():
            rows = connection.execute(statement.encode()).fetchall()
    except psycopg.OperationalError as error:
        if connection.closed:
            raise
        found.unchecked |= dict.fromkeys((rule.name for rule in rules), _reason(error))
        return
    except psycopg.Error as error:
        found.unchecked |= dict.fromkeys((rule.name for rule in rules), _reason(error))
        return
    found.seconds[check.about] = time.monotonic() - began
    for rule in rules:
        mine = [row for row in rows if row[0] == rule.name]
        if mine:
            found.findings.append(Finding(rule, mine[0][5], tuple(Example(*row[1:5]) for row in mine)))


def _reason(error: psycopg.Error) -> str:
    return " ".join(str(error.diag.message_primary or error).split())


@contextmanager
def _snapshot(connection: psycopg.Connection[Any], timeout_seconds: float, *, planned_for_all: bool) -> Iterator[None]:
    """A transaction in which everybody sees the same, with settings for few big statements; or the caller's own."""
    own = connection.info.transaction_status == TransactionStatus.IDLE
    if own:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        # For few big statements, whatever this session was set to for many small ones.
        for name, value in {
            "statement_timeout": str(round(timeout_seconds * 1000)),
            "lock_timeout": _LOCK_TIMEOUT,
            "work_mem": _WORK_MEM,
            "jit": "off",
            "TimeZone": "UTC",
            "max_parallel_workers_per_gather": "2",
            # Statistics are late where everything is new. A join that was planned for few rows must not meet a million.
            "enable_nestloop": "off" if planned_for_all else "on",
        }.items():
            connection.execute("SELECT set_config(%s, %s, true)", (name, value))
        yield
    finally:
        if own:
            connection.rollback()


def _fragments(connection: psycopg.Connection[Any], moment: dt.datetime, now: dt.datetime) -> dict[str, str]:
    """What the checks' SQL leaves open: the time, the queues of this database, and what this release ships."""
    queues = [
        queue
        for (queue,) in connection.execute(
            "SELECT n.queue || b.suffix FROM tasker.namespaces AS n, (VALUES (''), ('_high'), ('_low')) AS b(suffix)"
            " WHERE to_regclass(format('pgmq.%I', 'q_' || n.queue || b.suffix)) IS NOT NULL ORDER BY 1"
        ).fetchall()
    ]
    return {
        "moment": _literal(moment),
        "now": _literal(now),
        "messages": _messages(queues),
        "deferred": _DEFERRED,
        "indexes": _indexes(),
        "functions": _functions(),
    }


def _messages(queues: Sequence[str]) -> str:
    """SQL: a table of all messages on the step queues, with the step that each names."""
    each = " UNION ALL ".join(
        f"SELECT {_literal(queue)} AS queue, m.msg_id, m.message,"
        f" tasker.is_step_message(m.message) AS is_readable FROM {_table(queue)} AS m"
        for queue in queues
    )
    if not queues:
        each = "SELECT '' AS queue, 0 AS msg_id, CAST('{}' AS jsonb) AS message, false AS is_readable WHERE false"
    return f"""
        (SELECT y.queue, y.msg_id, y.message, y.is_readable,
                CASE WHEN y.is_readable THEN CAST(y.message->>'task_uuid' AS uuid) END AS task_uuid,
                CASE WHEN y.is_readable THEN CAST(y.message->>'position' AS integer) END AS step_position,
                CASE WHEN y.is_readable THEN coalesce(CAST(y.message->>'map_index' AS integer), 0) END AS map_index
         FROM ({each} OFFSET 0) AS y)"""


_DEFERRED = """
    (SELECT CAST(y.message->>'task_uuid' AS uuid) AS task_uuid,
            CAST(y.message->>'position' AS integer) AS step_position,
            CAST(y.message->>'from_index' AS integer) AS from_index
     FROM (SELECT m.message FROM pgmq.q_step_enqueue AS m
           WHERE tasker.is_step_enqueue_message(m.message) OFFSET 0) AS y)"""


@cache
def _indexes() -> str:
    ddl = migrations.ddl()
    names = {
        *_INDEX.findall(ddl),
        *(f"{table}_pkey" for table in _PRIMARY_KEY.findall(ddl) if table != "alembic_version"),
    }
    return ", ".join(f"({_literal(name)})" for name in sorted(names))


@cache
def _functions() -> str:
    values = []
    for file in load_function_files().values():
        body = None if _VIEW.search(file.text) else _BODY.search(file.text)
        values.append(f"({_literal(file.name)}, {'NULL' if body is None else f'md5({_literal(body[1])})'})")
    return ", ".join(values)


def _history_from(connection: psycopg.Connection[Any]) -> dict[str, dt.datetime | None]:
    """From when on each audit table is complete: the lower bound of its first partition, but for the one that stands
    before it for the sake of clocks that are set back.

    The lock keeps partitions from being dropped between here and the statements that read them.
    """
    tables = sql.SQL(", ").join(sql.Identifier("tasker", table) for table in _AUDIT_TABLES.values())
    connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(tables))
    kept: dict[str, dt.datetime | None] = {}
    for name, table in _AUDIT_TABLES.items():
        bounds = connection.execute(
            "SELECT (regexp_match(pg_get_expr(c.relpartbound, c.oid), $$FROM \\('([^']+)'\\)$$))[1]"
            " FROM pg_partition_tree(to_regclass(%s)) AS p JOIN pg_class AS c ON c.oid = p.relid"
            " WHERE p.level = 1 AND c.relname <> %s",
            (f"tasker.{table}", f"{table}{EARLY}"),
        ).fetchall()
        starts = [None if bound is None else dt.datetime.fromisoformat(bound) for (bound,) in bounds]
        kept[name] = None if None in starts else min((start for start in starts if start is not None), default=None)
    return kept


def _history_fragments(kept: Mapping[str, dt.datetime | None]) -> dict[str, str]:
    return {
        "first_step": _literal(_first_uuid(kept["steps"])),
        "first_task": _literal(_first_uuid(kept["tasks"])),
        "attempts_from": "CAST('-infinity' AS timestamptz)" if kept["attempts"] is None else _literal(kept["attempts"]),
    }


def _first_uuid(moment: dt.datetime | None) -> UUID:
    """The least uuid of a task created then: version 7, which begins with the milliseconds."""
    milliseconds = 0 if moment is None else int(moment.timestamp() * 1000)
    return UUID(int=milliseconds << 80)


def _table(queue: str) -> str:
    return sql.Identifier("pgmq", f"q_{queue}").as_string()


def _literal(value: object) -> str:
    return sql.Literal(value).as_string()


def _row(connection: psycopg.Connection[Any], query: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row
