"""What is wrong with a template: every problem says file, line, step and field, and all are told at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasker.errors import TemplateError

MAX_PROBLEMS_SHOWN = 25


@dataclass(frozen=True)
class Problem:
    """One thing wrong, or worth a warning, in one place of a template.

    Attributes:
        message: what is wrong and what would be right.
        field: the field as it is written, as a dotted path from its step or from the document; empty for the whole.
        step: name of the step it belongs to, if any.
        environment: name of the environment whose overrides it belongs to, if any.
        file: where the template was read; ``None`` for a text.
        line: line in that file, from 1.
    """

    message: str
    field: str = ""
    step: str | None = None
    environment: str | None = None
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = self.file or "template"
        if self.line is not None:
            place += f":{self.line}"
        parts = [place]
        if self.environment is not None:
            parts.append(f"environment {self.environment!r}")
        if self.step is not None:
            parts.append(f"step {self.step!r}")
        if self.field:
            parts.append(self.field)
        return ": ".join([*parts, self.message])

    def to_json(self) -> dict[str, object]:
        """The problem as one JSON object, for ``--json``."""
        return {
            "file": self.file,
            "line": self.line,
            "environment": self.environment,
            "step": self.step,
            "field": self.field or None,
            "message": self.message,
        }


class InvalidTemplate(TemplateError):
    """A workflow definition is wrong, in one place or in several.

    Attributes:
        problems: all that were found, in the order of their lines.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(dict.fromkeys(problems))
        shown = [str(problem) for problem in self.problems[:MAX_PROBLEMS_SHOWN]]
        hidden = len(self.problems) - len(shown)
        if hidden > 0:
            shown.append(f"and {hidden} more")
        super().__init__("\n".join(shown), field=self.problems[0].field or None)


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``name`` was probably meant to be."""
    matches = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A suggestion to end a sentence with: ``, did you mean "steps"?``; empty if nothing is near."""
    match = nearest(name, known)
    return f", did you mean {match!r}?" if match else ""


def one_of(names: Sequence[str]) -> str:
    """``names`` as a person lists alternatives: ``a, b or c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
