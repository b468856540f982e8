"""Asking workers by Celery's remote control, and what is said when none answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tasker.errors import TaskerError

if TYPE_CHECKING:
    from celery import Celery
    from kombu import Connection

F = TypeVar("F", bound=Callable[..., Any])


class NoWorkerAnswered(TaskerError):
    """None of the workers that were asked answered in time."""


def _finite(_context: click.Context, _parameter: click.Parameter, seconds: float) -> float:
    if not math.isfinite(seconds):
        raise click.BadParameter(f"{seconds} is no number of seconds.")
    return seconds


def remote_options(function: F) -> F:
    """Options of every command that asks workers."""
    for option in (
        click.option("--app", "-A", default="tasker", show_default=True, help="The Celery application."),
        click.option(
            "--timeout",
            default=2.0,
            show_default=True,
            type=click.FloatRange(min=0, min_open=True),
            callback=_finite,
            help="Seconds to wait for answers.",
        ),
    ):
        function = option(function)
    return function


def ask(
    command: str, *, app: str, timeout: float, workers: Sequence[str] = (), arguments: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The answers to a remote-control command, by worker.

    Those who were named and did not answer are for ``expect`` to tell, once what the others said is shown.

    Args:
        command: its name.
        app: the Celery application, unless the command line of ``celery`` named one.
        timeout: seconds to wait.
        workers: whom to ask; all, where none is named.
        arguments: of the command.

    Raises:
        NoWorkerAnswered: nobody answered.
        TaskerError: there is no such application, or its broker cannot be reached.
    """
    from kombu.exceptions import OperationalError

    found = _app(app)
    named = list(dict.fromkeys(workers))
    with _connection(found) as connection:
        try:
            replies = found.control.broadcast(
                command,
                arguments=arguments or {},
                destination=named or None,
                reply=True,
                timeout=timeout,
                connection=connection,
            )
        except (OperationalError, ImportError, *connection.connection_errors, *connection.channel_errors) as error:
            text = " ".join(str(error).split())
            raise TaskerError(
                f"the broker {connection.as_uri()} does not answer as it should: {text}",
                hint="it is named by CELERY_BROKER_URL, else by broker_url in celeryconfig.py, else it is the database",
            ) from error
    answers = {worker: answer for reply in replies or () for worker, answer in reply.items()}
    unknown = {"error": repr(KeyError(command))}
    for worker in [worker for worker, answer in answers.items() if answer == unknown]:
        answers[worker] = {"error": f"worker {worker} cannot host executors: its app knows nothing of Tasker"}
    if not answers:
        expect(named or None, answers, timeout)
    return dict(sorted(answers.items()))


def expect(workers: Collection[str] | None, answers: Collection[str], timeout: float) -> None:
    """Make sure that all who were named have answered; ``None``: anybody.

    Raises:
        NoWorkerAnswered: somebody did not.
    """
    silent = [worker for worker in dict.fromkeys(workers or ()) if worker not in answers]
    if silent or workers is None:
        who = f"nothing was heard of {', '.join(silent)}" if silent else "no worker answered"
        raise NoWorkerAnswered(
            f"{who} within {timeout:g} s",
            hint="`tasker worker list` shows who is registered; a solo worker answers between two steps, so a longer"
            " --timeout may help; workers answer over the broker of their own app (--app)",
        )


def _app(name: str) -> Celery:
    """The application that ``celery -A`` named, else the one called ``name``."""
    from celery import Celery
    from celery.app.utils import find_app

    context = click.get_current_context(silent=True)
    under_celery = None if context is None else getattr(context.find_root().obj, "app", None)
    if under_celery is not None:
        return under_celery
    try:
        found = find_app(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise TaskerError(f"there is no Celery application {name!r}: {error}", field="app") from error
    if not isinstance(found, Celery):
        raise TaskerError(f"there is no Celery application {name!r}: it is something else", field="app")
    return found


def _connection(app: Celery) -> Connection:
    """A connection to the application's broker, not yet made."""
    try:
        return app.connection_for_write()
    except (KeyError, ValueError, ImportError) as error:
        raise TaskerError(
            f"there is no broker of that kind: {error.args[0] if error.args else error}", field="broker_url"
        ) from error
