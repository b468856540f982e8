"""What ``tasker demo`` shows: a live view on a terminal, lines when piped, one object at the end as JSON."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tasker.cli.output import Output

LINE_SECONDS = 2.0
"""Piped, progress is one line in so many seconds."""

LOG_LINES = 30
"""How much of what each process printed is kept."""


class Screen:
    """A live view on a terminal, lines when piped, one object at the end as JSON."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._logs: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=LOG_LINES))
        self._print: Callable[[str], None] = output.note if output.as_json else click.echo

    def note(self, text: str) -> None:
        """A sentence; as JSON nothing."""
        self._print(text)

    def said(self, name: str, line: str) -> None:
        """Keep what a process printed, for ``show_logs``."""
        self._logs[name].append(line)

    def event(self, name: str, what: str) -> None:
        """What became of a process, and its last words, if it chose to end."""
        words = [] if what.startswith("was killed") else list(self._logs[name])[-3:]
        self.note("\n  ".join([f"{name} {what}", *words]))

    def show_logs(self) -> None:
        """The last lines of all processes."""
        for name, lines in self._logs.items():
            for line in lines:
                click.echo(f"{name} | {line}", err=True)

    @contextmanager
    def following(self, orders: int) -> Iterator[Callable[[Any], None]]:
        """What is to be called with the progress (``None``: no database just now), often."""
        begun = time.monotonic()
        if not self._output.is_terminal:
            next_line = 0.0

            def print_line(progress: Any) -> None:
                nonlocal next_line
                seconds = time.monotonic() - begun
                done = progress is not None and progress.finished >= orders
                if seconds >= next_line or done:
                    next_line = seconds + LINE_SECONDS
                    self.note(_line(progress, orders, seconds))

            yield print_line
            return
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(highlight=False), auto_refresh=False) as live:
            before, self._print = self._print, live.console.print
            try:
                yield lambda progress: live.update(_picture(progress, orders, time.monotonic() - begun), refresh=True)
            finally:
                self._print = before

    def report(self, report: Mapping[str, Any]) -> None:
        """What came of it, and the checks."""
        output = self._output
        if output.as_json:
            output.text("", **report)
            return
        rows = [{"outcome": "fulfilled", "orders": report["fulfilled"]}]
        rows += [{"outcome": f"refused: {why}", "orders": count} for why, count in report["refused"].items()]
        click.echo()
        output.table(rows, ["outcome", "orders"], title="Orders")
        click.echo()
        checks = [{**check, "ok": "ok" if check["ok"] else "WRONG"} for check in report["checks"]]
        output.table(checks, {"ok": "", "name": "check", "detail": "seen"}, title="Checks")
        click.echo()
        outbox = ", ".join(f"{count:,} {channel}" for channel, count in report["outbox"].items())
        output.record(
            {
                "steps": f"{report['steps']:,} in {report['seconds']:.1f} s: {report['steps_per_second']:,.0f} steps/s",
                "takings": f"{report['takings_cents'] / 100:,.2f}",
                "outbox": outbox or "empty",
                "outages": f"{report['outages']:,} attempts failed; {report['recovered']:,} steps done by a later one",
                "done already": f"{report['repeated_runs']:,} runs found their work done, and did nothing",
                "dead executors": f"{report['losses']:,} steps taken back from executors that died",
            }
        )
        click.echo()

    def where_to_look(self, database_url: str, port: int | None, *, keep: bool) -> None:
        """How to see more: Flower on ``port``, and the commands."""
        if self._output.as_json:
            return
        if not keep:
            where = "" if port is None else f" with Flower at http://127.0.0.1:{port}"
            self.note(f"`tasker demo --keep` leaves all of it running to look at{where}.")
            return
        if port is not None:
            self.note(f"Flower: http://127.0.0.1:{port}")
        self.note(f"In another terminal: export DATABASE_URL='{database_url}'")
        for line in (
            "tasker task list --state error    orders that were refused",
            "tasker task why UUID              what a task waits for, or why it failed",
            "tasker executor list              who works",
            "psql \"$DATABASE_URL\" -c 'TABLE shop.stock'",
        ):
            self.note(f"  {line}")
        self.note("Ctrl-C stops everything.")


def _line(progress: Any, orders: int, seconds: float) -> str:
    if progress is None:
        return f"{seconds:7.1f} s  no database just now"
    retrying = sum(step.retrying for step in progress.steps)
    rate = progress.steps_ended / seconds if seconds else 0
    return (
        f"{seconds:7.1f} s  {progress.finished:,} of {orders:,} orders, {progress.steps_ended:,} steps,"
        f" {rate:,.0f} steps/s, {retrying:,} waiting for a retry"
    )


def _picture(progress: Any, orders: int, seconds: float) -> RenderableType:
    from rich import box
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    finished = 0 if progress is None else progress.finished
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("step")
    table.add_column("namespace", style="dim")
    for heading in ("queued", "running", "retrying", "done", "refused"):
        table.add_column(heading, justify="right")
    for step in () if progress is None else progress.steps:
        counts = (step.waiting, step.running, step.retrying, step.complete, step.refused)
        table.add_row(step.name, step.namespace, *(f"{count:,}" if count else "" for count in counts))
    return Group(table, _line(progress, orders, seconds), ProgressBar(total=orders, completed=finished, width=60))
