"""The steps of ``tasker demo`` by hand: ``python -m order_fulfillment set-up | submit | show``."""

from __future__ import annotations

import sys

import click

from order_fulfillment import shop
from order_fulfillment.checks import run_checks
from order_fulfillment.progress import read_outcomes, read_progress
from order_fulfillment.submissions import TEMPLATE, read_submissions
from tasker import Tasker
from tasker.cli.output import Output
from tasker.core import OrchestrationCore

orders_option = click.option("--orders", default=1000, show_default=True, type=click.IntRange(min=1))


@click.group()
def main() -> None:
    """Orders of a small shop, on the database that the settings name."""


@main.command()
def set_up() -> None:
    """Make the shop's tables anew, and register the workflow."""
    with OrchestrationCore.from_settings() as core:
        shop.set_up(core.database.url)
        for registration in core.templates.load([TEMPLATE]):
            click.echo(f"registered {registration.workflow}")


@main.command()
@orders_option
def submit(orders: int) -> None:
    """Send the first orders of the file, each once or twice as the shop's front end did."""
    submissions = read_submissions(orders)
    tasker = Tasker()
    handles = tasker.create_many(submissions.requests())
    click.echo(f"{len(handles)} orders sent, {sum(handle.is_new for handle in handles)} of them new")
    tasker.close()


@main.command()
@orders_option
def show(orders: int) -> None:
    """How far the orders are; once all have ended, also whether everything is as it must be."""
    submissions = read_submissions(orders)
    output = Output()
    with shop.connect(shop.database_url()) as connection:
        progress = read_progress(connection)
        output.table([vars(step) for step in progress.steps], list(vars(progress.steps[0])))
        output.record(vars(read_outcomes(connection)))
        if progress.finished < len(submissions.order_ids):
            return
        checks = run_checks(connection, submissions)
    output.table([vars(check) for check in checks], {"name": "check", "ok": "ok", "detail": "seen"})
    sys.exit(0 if all(check.ok for check in checks) else 1)


if __name__ == "__main__":
    main()
