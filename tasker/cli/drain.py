"""``tasker drain``: workers finish what their executors hold, and go on with ordinary tasks alone."""

from __future__ import annotations

import click

from tasker.cli.commands import command
from tasker.cli.output import Output
from tasker.cli.remote import ask, expect, remote_options


@command()
@click.argument("workers", nargs=-1, metavar="[WORKER]...")
@click.option("--all", "every", is_flag=True, help="All workers that answer, instead of those that are named.")
@click.option("--resume", is_flag=True, help="Host executors again.")
@remote_options
def drain(workers: tuple[str, ...], every: bool, resume: bool, app: str, timeout: float) -> None:
    """Have workers host no executors for now: they finish what they hold and claim nothing more.

    Ordinary Celery tasks go on. It lasts until --resume, or until the worker is started anew; asking twice does no
    harm. `tasker worker executors` shows who has ended.
    """
    from tasker.hosting.remote import DRAIN

    if every == bool(workers):
        raise click.UsageError("name the workers (`tasker worker list`), or say --all")
    answers = ask(DRAIN, app=app, timeout=timeout, workers=workers, arguments={"resume": resume})
    rows = [
        {"worker": worker, "ok": "error" not in answer, "answer": answer.get("ok") or answer.get("error")}
        for worker, answer in answers.items()
    ]
    Output().table(rows, {"worker": "worker", "answer": "answer"}, title="Draining")
    expect(workers, answers, timeout)
    if not all(row["ok"] for row in rows):
        raise click.exceptions.Exit(1)
