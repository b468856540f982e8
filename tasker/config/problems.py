"""What is wrong with the settings: all of it at once, each with its place, value and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasker.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Problem:
    """One wrong setting.

    Attributes:
        key: dotted key (``database.pool.max_connections``); empty where a whole file is wrong.
        where: file and line, or environment variable, it came from.
        value: its value as written, secrets masked; ``None`` where there is none to show.
        message: what is wrong, and what is allowed.
    """

    key: str
    where: str
    value: str | None
    message: str

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.where, self.key) if part)
        return f"{place}{'' if self.value is None else f' = {self.value}'}: {self.message}"


class InvalidSettings(ConfigurationError):
    """Some settings are wrong; ``problems`` has them all, and so has the message.

    Args:
        problems: at least one.
        environment: the environment that was loaded.
    """

    def __init__(self, problems: Sequence[Problem], *, environment: str) -> None:
        count = "1 setting is" if len(problems) == 1 else f"{len(problems)} settings are"
        lines = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"{count} wrong in environment {environment}:\n{lines}", field=problems[0].key or None)
        self.problems = tuple(problems)
        self.environment = environment

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (self.problems, self.environment)


def _restore(problems: Sequence[Problem], environment: str) -> InvalidSettings:
    return InvalidSettings(problems, environment=environment)
