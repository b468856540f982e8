"""What all commands share: ``--json`` on each, and errors that end in a message and an exit code.

Exit codes: 0 done, 1 failed, 2 called wrongly. A command group lives in one module of this package, named like it::

    @group()
    def queue() -> None: ...

    @queue.command("list")
    def list_queues() -> None: ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import IO, Any, TypeVar

import click

from tasker.errors import TaskerError

JSON_META = "tasker.cli.json"
"""Key in the click context's ``meta``: whether JSON was asked for."""

INSUFFICIENT_PRIVILEGE = "42501"
"""PostgreSQL's SQLSTATE for what a login has no right to."""

T = TypeVar("T")


def wants_json() -> bool:
    """Whether the running command was called with ``--json``."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(JSON_META))


def json_option() -> click.Option:
    """``--json``, as every command and the program itself have it."""

    def remember(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
        if value:
            context.meta[JSON_META] = True

    return click.Option(
        ["--json", "as_json"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=remember,
        help="Print JSON, for programs.",
    )


class ShowsErrors(click.Command):
    """Of a program: errors that people can act on are shown without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            failure = as_failure(error)
            if failure is None:
                raise
            raise failure from error


class Command(click.Command):
    """A command with ``--json``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params.append(json_option())


class Group(click.Group):
    """A command group whose commands all have ``--json``."""

    command_class = Command
    group_class = type  # nested groups are of the same class


def group(name: str | None = None, **options: Any) -> Callable[[Callable[..., Any]], Group]:
    """Decorator: a command group, one per module of this package."""
    return click.group(name, cls=Group, **options)


def command(name: str | None = None, **options: Any) -> Callable[[Callable[..., Any]], Command]:
    """Decorator: a command that stands alone (``tasker up``)."""
    return click.command(name, cls=Command, **options)


class Failure(click.ClickException):
    """An error shown as what is wrong and what to do, without a traceback."""

    exit_code = 1

    def __init__(self, error: TaskerError) -> None:
        super().__init__(error.message)
        self.error = error
        self.as_json = wants_json()  # it is shown after the command's context is gone

    def show(self, file: IO[Any] | None = None) -> None:
        """Print to standard error: one JSON object if JSON was asked for, else lines for people."""
        from tasker.cli.output import to_json

        error = self.error
        if self.as_json:
            described = {"type": type(error).__name__, "message": error.message}
            described |= {name: value for name in ("hint", "field") if (value := getattr(error, name)) is not None}
            click.echo(to_json({"error": described}), file=file, err=True)
            return
        click.echo(f"{click.style('Error:', fg='red', bold=True)} {error.message}", file=file, err=True)
        if error.hint is not None:
            click.echo(f"{click.style('Hint:', bold=True)} {error.hint}", file=file, err=True)


def as_failure(error: Exception) -> Failure | None:
    """How ``error`` is shown, or ``None`` for an error in the program, which deserves its traceback."""
    if isinstance(error, TaskerError):
        return Failure(error)
    # psycopg and SQLAlchemy both call it so; neither needs to be imported to see it.
    if any(base.__name__ == "OperationalError" for base in type(error).__mro__):
        text = " ".join(str(error).split())
        return Failure(
            TaskerError(
                f"the database does not answer as it should: {text}",
                hint="`tasker config explain database.url` says which database is meant, and who says so",
            )
        )
    # SQLAlchemy's errors have psycopg's within.
    inner: Any = getattr(error, "orig", error)
    if getattr(inner, "sqlstate", None) == INSUFFICIENT_PRIVILEGE:
        text = inner.diag.message_primary or " ".join(str(inner).split())
        return Failure(
            TaskerError(
                f"the login of the database's address may not do this: {text}",
                hint="grant it tasker_client, tasker_worker or tasker_operator, or use the login that owns the schema",
            )
        )
    return None


def one_by_one(names: Iterable[str], change: Callable[[str], T], show: Callable[[list[T]], None]) -> None:
    """Change one after the other, and ``show`` what was done, even where one of them is refused."""
    done: list[T] = []
    try:
        for name in names:
            done.append(change(name))  # noqa: PERF401 - what was done before a refusal is shown
    finally:
        if done:
            show(done)
