"""Asking workers by Celery's remote control, and what is said when none answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from tasker.errors import TaskerError

F = TypeVar("F", bound=Callable[..., Any])


class NoWorkerAnswered(TaskerError):
    """None of the workers that were asked answered in time."""


def remote_options(function: F) -> F:
    """Options of every command that asks workers."""
    for option in (
        click.option("--app", "-A", default="tasker", show_default=True, help="The Celery application."),
        click.option(
            "--timeout",
            default=2.0,
            show_default=True,
            type=click.FloatRange(min=0, min_open=True),
            help="Seconds to wait for answers.",
        ),
    ):
        function = option(function)
    return function


def ask(
    command: str, *, app: str, timeout: float, workers: Sequence[str] = (), arguments: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The answers to a remote-control command, by worker.

    Args:
        command: its name.
        app: the Celery application, unless the command line of ``celery`` named one.
        timeout: seconds to wait.
        workers: whom to ask; all, where none is named.
        arguments: of the command.

    Raises:
        NoWorkerAnswered: nobody answered, or not all who were named.
    """
    found = _app(app)
    replies = found.control.broadcast(
        command, arguments=arguments or {}, destination=list(workers) or None, reply=True, timeout=timeout
    )
    answers = {worker: answer for reply in replies or () for worker, answer in reply.items()}
    silent = [worker for worker in workers if worker not in answers]
    if silent or not answers:
        who = f"nothing was heard of {', '.join(silent)}" if silent else "no worker answered"
        raise NoWorkerAnswered(
            f"{who} within {timeout:g} s",
            hint="`tasker worker list` shows who is registered; a solo worker answers between two steps, so a longer"
            " --timeout may help; workers answer over the broker of their own app (--app)",
        )
    return dict(sorted(answers.items()))


def _app(name: str) -> Any:
    """The application that ``celery -A`` named, else the one called ``name``."""
    context = click.get_current_context(silent=True)
    under_celery = None if context is None else getattr(context.find_root().obj, "app", None)
    if under_celery is not None:
        return under_celery
    from celery.app.utils import find_app

    try:
        return find_app(name)
    except (ImportError, AttributeError) as error:
        raise TaskerError(f"there is no Celery application {name}: {error}", field="app") from error
