"""What the pages are made of: headings, tables, code spans."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 120
GENERATED = "<!-- Made by `make docs` from the code; change that, not this page. -->"


def page(title: str, *parts: str) -> str:
    """A whole page: its title, the note that it is made, and its parts, a blank line between each."""
    return "\n\n".join([f"# {title}", GENERATED, *(part.strip("\n") for part in parts if part)]) + "\n"


def prose(text: str) -> str:
    """Paragraphs, each wrapped to the width of a page."""
    paragraphs = re.split(r"\n\s*\n", textwrap.dedent(text).strip())
    return "\n\n".join(textwrap.fill(" ".join(each.split()), WIDTH, break_long_words=False) for each in paragraphs)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown already."""
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    lines += [f"| {' | '.join(cell(text) for text in row)} |" for row in rows]
    return "\n".join(lines)


def cell(text: str) -> str:
    """``text`` on one line of a table."""
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))


def code(text: str) -> str:
    """``text`` as a code span, whatever it holds."""
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def from_docstring(text: str) -> str:
    """Words of a docstring as Markdown: one sort of code span."""
    return re.sub(r"``(.+?)``", r"`\1`", " ".join(text.split()))
