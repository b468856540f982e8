"""``tasker db``: bring the schema up to date, and see how the database is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from tasker.cli import moments
from tasker.cli.commands import Failure, as_failure, group
from tasker.cli.output import Output

if TYPE_CHECKING:
    from tasker.config.settings import Settings
    from tasker.database.doctor import Finding
    from tasker.database.verification import Progress, Report, Rule

MOST_DAYS = 36_500
"""As many as ``database.retention`` takes: times before PostgreSQL's first moment mean nothing."""


@group()
def db() -> None:
    """The database: migrate its schema, look at it, examine its health."""


@db.command("migrate")
def migrate() -> None:
    """Bring the schema up to date: tables, functions, PGMQ, roles, audit partitions.

    All in one transaction: it happens, or nothing does. Several processes may run this at once, and programs of the
    last two releases go on working meanwhile.
    """
    from tasker.config.manager import ConfigManager
    from tasker.database import migrations
    from tasker.database.address import database_address
    from tasker.database.dsn import masked

    output = Output()
    with database_address(ConfigManager.load()) as url:
        report = migrations.migrate(url)
        functions = report.functions
        text = f"{masked(url)} is up to date: revision {report.to_revision}."
        if report.changed:
            done = [
                f"revision {report.from_revision or 'none'} → {report.to_revision}"
                if report.from_revision != report.to_revision
                else "",
                f"{len(functions.added)} functions made" if functions.added else "",
                f"{len(functions.changed)} replaced" if functions.changed else "",
                f"{len(functions.vanished)} dropped" if functions.vanished else "",
                "PGMQ installed" if report.pgmq_installed else "",
                f"{len(report.partitions)} audit partitions made" if report.partitions else "",
            ]
            text = f"{masked(url)} migrated: {', '.join(part for part in done if part) or 'release recorded'}."
        output.text(text, **vars(report))
    if report.missing_roles:
        output.note(
            f"This login may not create roles, so {', '.join(report.missing_roles)} do not exist:"
            " programs connect as the owner of the schema."
        )


@db.command("status")
def status() -> None:
    """What schema the database has, and whether this release can work with it. Exit code 1 if not."""
    from tasker.config.manager import ConfigManager
    from tasker.database import migrations
    from tasker.database.address import database_address
    from tasker.database.dsn import masked
    from tasker.errors import SchemaVersionError

    output = Output()
    with database_address(ConfigManager.load()) as url:
        found = migrations.status(url)
        try:
            migrations.check(url)
        except SchemaVersionError as error:
            problem: str | None = str(error)
        else:
            problem = None
        output.record(
            {
                "database": masked(url),
                "state": found.state.value,
                "usable": problem is None,
                "problem": problem,
                "revision": found.revision,
                "wanted_revision": found.head,
                "release": found.release,
                "our_release": found.our_release,
                "functions_missing": list(found.functions.added),
                "functions_changed": list(found.functions.changed),
                "functions_left_over": list(found.functions.vanished),
                "pgmq": found.pgmq,
                "roles": list(found.roles),
            },
            title="Schema",
        )
    if problem is not None:
        raise click.exceptions.Exit(1)


@db.command("sql")
def print_sql() -> None:
    """Print the whole schema as SQL, for those who run their own migrations. Needs no database."""
    from tasker.database import migrations

    text = migrations.ddl()
    Output().text(text.rstrip("\n"), sql=text)


@db.command("doctor")
def doctor() -> None:
    """Examine the database: settings, schema, rights, connections, partitions, bloat, who holds or waits for what.

    Exit code 1 on a problem; warnings alone are none.
    """
    from tasker.config.manager import ConfigManager
    from tasker.database.address import database_address
    from tasker.database.doctor import examine

    output = Output()
    settings = ConfigManager.load()
    with database_address(settings) as url:
        findings = [*examine(url), _budget(settings, url)]
    output.table([vars(finding) for finding in findings], ["check", "verdict", "detail", "advice"], title="Database")
    if any(finding.verdict == "problem" for finding in findings):
        raise click.exceptions.Exit(1)


@db.command("prune")
@click.option("--dry-run", is_flag=True, help="Count what would go, and change nothing.")
@click.option(
    "--finished-days",
    type=click.FloatRange(0, MOST_DAYS),
    metavar="DAYS",
    help="Instead of database.retention.finished_task_days; 0 keeps finished tasks.",
)
@click.option(
    "--audit-days",
    type=click.IntRange(0, MOST_DAYS),
    metavar="DAYS",
    help="Instead of database.retention.audit_days; 0 keeps the history.",
)
def prune(dry_run: bool, finished_days: float | None, audit_days: int | None) -> None:
    """Remove what is over and older than the settings say: finished tasks, history, letters, archived messages, events.

    The coordinator's ticks do the same, a little each time; this goes on until nothing is left to remove. Each batch
    is a transaction of its own that waits for nobody, so it may run beside any load, and be stopped at any time.
    """
    from tasker.config.manager import ConfigManager
    from tasker.database import retention
    from tasker.database.address import database_address
    from tasker.database.connection import Database

    output = Output()
    settings = ConfigManager.load()
    kept = settings.database.retention
    days = kept.finished_task_days if finished_days is None else finished_days
    audit = kept.audit_days if audit_days is None else audit_days
    if math.isnan(days):
        raise click.BadParameter("nan is no number of days", param_hint="--finished-days")
    if audit and not 0 < days <= audit:
        finished = f"{days:g} days" if days else "for ever"
        raise click.UsageError(
            f"history is to be kept for {audit} days and finished tasks {finished}: they would be shown without it;"
            " give --audit-days and --finished-days that fit"
        )
    keep = retention.Retention(
        days or None,
        audit or None,
        settings.pgmq.archive_retention_seconds or None,
        settings.pgmq.event_retention_seconds or None,
    )
    did = "would go" if dry_run else "went"
    with database_address(settings) as url, output.progress() as show:
        database = Database(url, statement_timeout_ms=60_000, application_name="tasker prune")
        work = retention.count if dry_run else retention.prune
        with database.connect() as connection:
            done = work(connection, keep, watch=lambda so_far: show(f"{so_far.tasks} tasks {did}"))
    partitions = [
        {"table": each.parent, "name": each.name, "ends_at": each.ends_at, "size_bytes": each.size_bytes}
        for each in done.partitions
    ]
    rows = {name: count for name, count in done.history.items() if count}
    lines = [
        f"finished tasks: {done.tasks} {did}, with {done.steps} steps"
        + (f"; {done.passed} are held, or wait for their parent" if done.passed else ""),
        f"audit partitions: {len(partitions)} {did}, {sum(each.size_bytes for each in done.partitions) / 1e6:.0f} MB",
        *(f"{name}: {count} {did}" for name, count in rows.items()),
        f"archived messages: {done.archived_messages} {did}",
        f"domain events that nobody handled: {done.domain_events} {did}",
        f"{done.batches} {'pages' if dry_run else 'batches'}, {done.seconds:.1f} s",
    ]
    output.text(
        "\n".join(lines),
        dry_run=dry_run,
        finished_task_days=days or None,
        audit_days=audit or None,
        archive_retention_seconds=keep.archive_seconds,
        event_retention_seconds=keep.event_seconds,
        tasks=done.tasks,
        steps=done.steps,
        passed=done.passed,
        partitions=partitions,
        history=dict(done.history),
        archived_messages=done.archived_messages,
        domain_events=done.domain_events,
        batches=done.batches,
        seconds=round(done.seconds, 3),
    )


def _budget(settings: Settings, url: str) -> Finding:
    """Whether all that these settings allow to run can have the connections it may want."""
    from tasker.coordinator.connection_budget import ConnectionBudget
    from tasker.database import work
    from tasker.database.calls import run
    from tasker.database.connection import Database
    from tasker.database.doctor import Finding

    with Database(url, application_name="tasker doctor").connect() as connection:
        limits = run(connection, work.connection_limits())
    budget = ConnectionBudget.of(settings, max_connections=limits.max_connections, reserved_connections=limits.reserved)
    demands = "; ".join(map(str, budget.demands))
    return Finding(
        "connection budget",
        "ok" if budget.fits else "warning",
        f"{budget.demanded} of {budget.available} can be wanted by these settings ({demands})",
        budget.advice,
    )


class CouldNotCheck(Failure):
    """Nothing is known about the history: neither that it is legal nor that it is not."""

    exit_code = 2


@db.command("verify")
@click.option("--task", type=click.UUID, metavar="UUID", help="Only what belongs to this task.")
@click.option("--namespace", help="Only what belongs to tasks of this namespace's workflows.")
@click.option(
    "--since", help="Only tasks that something happened to since this time, or so long ago (90s, 15m, 12h, 7d)."
)
@click.option("--rule", "rules", multiple=True, metavar="NAME", help="Only this rule; may be given several times.")
@click.option("--list", "list_rules", is_flag=True, help="Print the rules instead. Needs no database.")
@click.option(
    "--examples", type=click.IntRange(1, 1000), default=10, show_default=True, help="Rows to show for each rule."
)
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(0.001),
    default=600,
    show_default=True,
    help="Longest time for one statement, in seconds.",
)
def verify(
    task: UUID | None,
    namespace: str | None,
    since: str | None,
    rules: tuple[str, ...],
    list_rules: bool,
    examples: int,
    timeout_seconds: float,
) -> None:
    """Prove from the tables that the history is legal, or list every violation.

    Changes nothing and locks no row; all rules see one moment, so it may run beside any load. Exit code 0: all rules
    hold. 1: some are violated. 2: some could not be checked. What the engine will put right by itself is listed as
    pending, and is no violation.
    """
    from tasker.config.manager import ConfigManager
    from tasker.database import verification
    from tasker.database.address import database_address

    output = Output()
    if list_rules:
        listed = [_as_record(rule) for rule in verification.RULES.values()]
        output.table(listed, ["rule", "severity", "says"], title="Rules")
        return
    try:
        with database_address(ConfigManager.load()) as url, output.progress() as show:
            report = verification.verify(
                url,
                task=task,
                namespace=namespace,
                since=None if since is None else moments.since(since),
                rules=rules or None,
                examples=examples,
                timeout_seconds=timeout_seconds,
                watch=lambda progress: show(_progress(progress)),
            )
    except Exception as error:
        failure = as_failure(error)
        if failure is None:
            raise
        raise CouldNotCheck(failure.error) from error
    _print_report(output, report)
    if report.violations:
        raise click.exceptions.Exit(1)
    if report.unchecked:
        raise click.exceptions.Exit(2)


def _progress(progress: Progress) -> str:
    return f"{progress.number}/{progress.of}: {progress.check.about}"


def _as_record(rule: Rule) -> dict[str, Any]:
    return {
        "rule": rule.name,
        "severity": rule.severity,
        "says": rule.says,
        "advice": rule.advice,
        "repaired": rule.repaired,
    }


def _print_report(output: Output, report: Report) -> None:
    seconds = sum(report.seconds.values())
    data = {
        "at": report.at,
        "is_legal": not report.violations and not report.unchecked,
        "seconds": round(seconds, 3),
        "rules": [rule.name for rule in report.rules],
        "history_from": dict(report.history_from),
        "findings": [
            {**_as_record(found.rule), "count": found.count, "examples": [vars(one) for one in found.examples]}
            for found in report.findings
        ],
        "unchecked": dict(report.unchecked),
    }
    lines = []
    for found in report.findings:
        lines.append(f"{found.rule.severity}: {found.rule.name} ({found.count}): {found.rule.says}")
        lines += [f"    {example}" for example in found.examples]
        if found.count > len(found.examples):
            lines.append(f"    and {found.count - len(found.examples)} more")
        if found.rule.repaired is not None:
            lines.append(f"  will be put right: {found.rule.repaired}")
        lines.append(f"  what to do: {found.rule.advice}")
    for reason in dict.fromkeys(report.unchecked.values()):
        names = ", ".join(name for name, why in report.unchecked.items() if why == reason)
        lines.append(f"unchecked: {names}: {reason}")
    for table, moment in report.history_from.items():
        if moment is not None:
            lines.append(f"{table} is kept from {moment.isoformat()} on; what was before is not judged.")
    violated, pending = len(report.violations), len(report.pending)
    lines.append(
        f"{len(report.rules) - violated - pending} rules hold, {violated} are violated, {pending} wait for a repair,"
        f" {len(report.unchecked)} could not be checked, in {seconds:.1f} s, as of {report.at.isoformat()}."
    )
    output.text("\n".join(lines), **data)
