"""The book in which handlers write what they do: one line each, in a file, which no crash of a database takes back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

BOOK_VARIABLE = "TASKER_CHAOS_EFFECTS"
"""Environment variable: where the book is."""

_books: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class Effect:
    """One line.

    Attributes:
        what: ``begin`` and ``end`` of a handler; ``hook``, of which step is the hook's name and fence the finish_no.
        task: the task's uuid.
        step: the step's name.
        fence: of the claim under which the handler ran.
    """

    what: str
    task: str
    step: str
    fence: int


def write(what: str, task: str, step: str, fence: int, *, book: Path | None = None) -> None:
    """Append a line to ``book``, or to the one that the environment names; in one system call, so that no lines mix."""
    path = str(book or os.environ[BOOK_VARIABLE])
    if path not in _books:
        # Kept, and inherited by forks: with O_APPEND the place is the kernel's to find.
        _books[path] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(_books[path], f"{what} {task} {step} {fence}\n".encode())


def read(path: Path) -> list[Effect]:
    """All lines, in the order in which they were written."""
    if not path.exists():
        return []
    return [
        Effect(what, task, step, int(fence))
        for what, task, step, fence in (line.split() for line in path.read_text().splitlines())
    ]
