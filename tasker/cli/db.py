"""``tasker db``: bring the schema up to date, and see how the database is."""

from __future__ import annotations

import click

from tasker.cli.commands import group
from tasker.cli.output import Output


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
    """Examine the database: settings, schema, rights, partitions, bloat, long transactions.

    Exit code 1 on a problem; warnings alone are none.
    """
    from tasker.config.manager import ConfigManager
    from tasker.database.address import database_address
    from tasker.database.doctor import examine

    output = Output()
    with database_address(ConfigManager.load()) as url:
        findings = examine(url)
    output.table([vars(finding) for finding in findings], ["check", "verdict", "detail", "advice"], title="Database")
    if any(finding.verdict == "problem" for finding in findings):
        raise click.exceptions.Exit(1)
