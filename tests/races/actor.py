"""A call that races, and how it is registered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.races.stages import Stage
from tests.sql_kit import Core

Call = Callable[[Stage, Core, int], Any]
"""Makes the call on a session, for the first time (0) or again; the answer is compared as it is."""


@dataclass(frozen=True)
class Actor:
    """A call that races.

    Attributes:
        name: the function, and after a colon what is special.
        call: makes it.
        comes_again: its caller comes again for what it did not get: what another holds is left out, not waited for.
        prepare: what must be there before.
        counts: whether it may complete steps, and its answer says so.
    """

    name: str
    call: Call
    comes_again: bool = False
    prepare: Callable[[Stage], None] | None = None
    counts: bool = False

    @property
    def function(self) -> str:
        return self.name.partition(":")[0]


def registering(into: dict[str, Actor]) -> Callable[..., Callable[[Call], Call]]:
    """A decorator that enters calls by their names: ``@actor("heartbeat:nothing held", comes_again=True)``."""

    def actor(name: str, **more: Any) -> Callable[[Call], Call]:
        def add(call: Call) -> Call:
            into[name] = Actor(name, call, **more)
            return call

        return add

    return actor


def settled(answer: dict[str, Any]) -> list[Any]:
    """What became of letters, without their numbers, which are others on each stage.

    One that was pruned while the call waited is told of as not found; to one that came later it never was there.
    """
    letters = [entry for entry in answer["letters"] if entry["reason"] != "not_found"]
    told = [[entry["task_uuid"], entry["outcome"], entry["reason"]] for entry in letters]
    return sorted(told, key=str)
