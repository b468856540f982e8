"""How commands print: rich tables and live views on a terminal, plain columns when piped, JSON when asked.

Standard output carries the answer alone; remarks and errors go to standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from tasker.cli.commands import wants_json
from tasker.encoding import decode, encode

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

Row = Mapping[str, Any]
Columns = Mapping[str, str] | Sequence[str]
"""Keys of the rows to show, in order; a mapping also gives their headings."""

_STYLES = {
    "complete": "green",
    "healthy": "green",
    "resolved_manually": "green",
    "in_progress": "cyan",
    "enqueued": "cyan",
    "waiting_for_retry": "yellow",
    "paused": "yellow",
    "degraded": "yellow",
    "error": "red",
    "unhealthy": "red",
    "cancelled": "magenta",
}


class Output:
    """Prints what a command found.

    Args:
        as_json: print JSON; ``None`` asks the running command's ``--json``.
    """

    def __init__(self, *, as_json: bool | None = None) -> None:
        self.as_json = wants_json() if as_json is None else as_json

    @property
    def is_terminal(self) -> bool:
        """Whether a person is watching: a terminal, and no JSON."""
        return not self.as_json and sys.stdout.isatty()

    def table(self, rows: Sequence[Row], columns: Columns, *, title: str | None = None, empty: str = "None.") -> None:
        """Print rows: all their keys as JSON, else the given columns.

        Args:
            rows: one mapping per row.
            columns: keys to show.
            title: shown above the table on a terminal.
            empty: said, on standard error, when there are no rows.
        """
        if self.as_json:
            self._print_json(list(rows))
        elif not rows:
            self.note(empty)
        elif self.is_terminal:
            _console().print(_rich_table(rows, columns, title))
        else:
            click.echo(_plain_table(rows, columns))

    def record(self, values: Row, *, title: str | None = None) -> None:
        """Print one thing, a line per key."""
        if self.as_json:
            self._print_json(dict(values))
            return
        rows = [{"key": key, "value": value} for key, value in values.items()]
        if self.is_terminal:
            _console().print(_rich_table(rows, ["key", "value"], title, header=False))
        else:
            click.echo(_plain_table(rows, ["key", "value"], header=False))

    def text(self, text: str, **data: Any) -> None:
        """Print ``text`` as it is (SQL, a graph, a sentence); as JSON ``data``, or ``{"text": text}`` without any."""
        if self.as_json:
            self._print_json(data or {"text": text})
        else:
            click.echo(text)

    def event(self, text: str, data: Row) -> None:
        """Print one of many lines as it happens; as JSON one object per line."""
        if self.as_json:
            click.echo(encode(data, what="output").decode())
        else:
            click.echo(text)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Say something beside the answer, on standard error; nothing as JSON."""
        if not self.as_json:
            click.echo(text, err=True)

    def show(self, renderable: RenderableType) -> None:
        """Print something of rich's own (a panel, a tree); rich leaves colours out when piped."""
        _console().print(renderable)

    @contextmanager
    def live(self, columns: Columns, *, title: str | None = None) -> Iterator[LiveTable]:
        """A table that is redrawn in place; piped, each state is printed when it differs from the one before."""
        if not self.is_terminal:
            yield LiveTable(self, columns, title, None)
            return
        from rich.live import Live

        with Live(console=_console(), auto_refresh=False) as view:
            yield LiveTable(self, columns, title, view)

    @contextmanager
    def progress(self) -> Iterator[Callable[[str], object]]:
        """Gives what shows a line of progress, on standard error, while somebody watches; else what does nothing."""
        if self.as_json or not sys.stderr.isatty():
            yield lambda text: None
            return
        from rich.console import Console

        with Console(stderr=True).status("") as status:
            yield status.update

    def _print_json(self, value: object) -> None:
        click.echo(to_json(value))


class LiveTable:
    """What ``Output.live`` gives: ``update(rows)`` shows the state of now."""

    def __init__(self, output: Output, columns: Columns, title: str | None, view: Any) -> None:
        self._output = output
        self._columns = columns
        self._title = title
        self._view = view
        self._last: str | None = None

    def update(self, rows: Sequence[Row], *, caption: str | None = None) -> None:
        """Show ``rows``, and ``caption`` below them on a terminal."""
        if self._view is not None:
            self._view.update(_rich_table(rows, self._columns, self._title, caption=caption), refresh=True)
            return
        if self._output.as_json:
            state = encode(list(rows), what="output").decode()
        else:
            state = _plain_table(rows, self._columns)
        if state != self._last:
            self._last = state
            click.echo(state)
            sys.stdout.flush()


def to_json(value: object) -> str:
    """``value`` as JSON: on one line when piped, indented on a terminal."""
    encoded = encode(value, what="output")
    if sys.stdout.isatty():
        return json.dumps(decode(encoded), indent=2, ensure_ascii=False)
    return encoded.decode()


def cell(value: object) -> str:
    """One value as people read it in a table."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:,.3f}".rstrip("0").rstrip(".")
        case datetime():
            return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        case timedelta():
            return str(timedelta(seconds=round(value.total_seconds())))
        case list() | tuple() | set() | frozenset():
            return ", ".join(cell(item) for item in value) or "-"
        case dict():
            return encode(value, what="output").decode()
        case _:
            return str(value)


def _headings(columns: Columns) -> dict[str, str]:
    if isinstance(columns, Mapping):
        return dict(columns)
    return {column: column.replace("_", " ") for column in columns}


def _plain_table(rows: Sequence[Row], columns: Columns, *, header: bool = True) -> str:
    headings = _headings(columns)
    lines = [list(headings.values())] if header else []
    lines += [[" ".join(cell(row.get(key)).split()) for key in headings] for row in rows]
    widths = [max((len(line[index]) for line in lines), default=0) for index in range(len(headings))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _rich_table(
    rows: Sequence[Row], columns: Columns, title: str | None, *, header: bool = True, caption: str | None = None
) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    headings = _headings(columns)
    table = Table(
        title=title,
        caption=caption,
        show_header=header,
        box=box.SIMPLE_HEAD if header else None,
        title_justify="left",
        caption_justify="left",
    )
    for key, heading in headings.items():
        numeric = bool(rows) and all(
            isinstance(row.get(key), int | float | None) and not isinstance(row.get(key), bool) for row in rows
        )
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # Text, not markup: a value with brackets in it is a value.
        table.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in (cell(row.get(key)) for key in headings)))
    return table


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)
