"""Ways in which steps misbehave, and what they have in common: what such steps do, and what usually follows.

A module of this folder is about one subject. Its kinds are stories; each is told at every place of every shape at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tasker.errors import PermanentError, RetryableError
from tests.integration.executors.matrix import Act, Bench, Case, Expected, Turn, succeed

MINUTE: Mapping[str, Any] = {"backoff_base_ms": 60_000, "backoff_max_ms": 60_000}
"""A back-off that only the clock gets a step over."""

Play = Callable[[Bench], None]


@dataclass(frozen=True)
class Kind:
    """One way to misbehave: what is tried, what the step does, its settings, and the story around it."""

    name: str
    play: Play
    acts: Act | None
    step: Mapping[str, Any] = field(default_factory=dict)


class Kinds:
    """The kinds of one module, in their order."""

    def __init__(self) -> None:
        self._all: list[Kind] = []

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._all)

    def __call__(self, name: str, acts: Act | None = None, **step: Any) -> Callable[[Play], Play]:
        """Make the decorated story a kind. Without ``acts`` the step does what every other does."""

        def add(play: Play) -> Play:
            self._all.append(Kind(name, play, acts, step))
            return play

        return add


# -- what misbehaving steps do ----------------------------------------------------------------------------------------


def refuse(turn: Turn) -> Any:
    raise PermanentError("no such card", code="card_unknown")


def fail(times: int) -> Act:
    """Fail so many times, then succeed."""

    def act(turn: Turn) -> Any:
        if turn.run <= times:
            raise RetryableError("not yet", code="later")
        return succeed(turn.ctx)

    return act


def divide_by_zero(turn: Turn) -> Any:
    return 1 / 0


def leave(turn: Turn) -> Any:
    raise SystemExit(3)


async def cancel_itself(turn: Turn) -> Any:
    raise asyncio.CancelledError


def answer(result: Any) -> Act:
    return lambda turn: result


def spin(turn: Turn) -> Any:
    while True:
        time.sleep(0.01)


def sleep(times: int) -> Act:
    """Sleep for ever so many times, then succeed."""

    async def act(turn: Turn) -> Any:
        if turn.run <= times:
            await asyncio.sleep(3600)
        return succeed(turn.ctx)

    return act


def wait(times: int = 1, *, then: Act = lambda turn: succeed(turn.ctx)) -> Act:
    """Wait at the gate so many times, and go on with ``then``."""

    async def act(turn: Turn) -> Any:
        while turn.run <= times and not turn.gate.is_set():  # noqa: ASYNC110 - another thread opens it
            await asyncio.sleep(0.005)
        return then(turn)

    return act


# -- what follows -----------------------------------------------------------------------------------------------------


def failed(error: str, **more: Any) -> Expected:
    """The step is in error, and what needs it waits for ever."""
    letters = ((error, None),)
    usual: dict[str, Any] = {
        "task": "error", "place": "error", "below": "pending", "error": error, "finishes": ("error",),
        "dead_letters": letters,
    }  # fmt: skip
    return Expected(**{**usual, **more})


def waits(**more: Any) -> Expected:
    """The step waits for its next attempt."""
    usual: dict[str, Any] = {
        "task": "in_progress", "place": "waiting_for_retry", "below": "pending", "error": "later", "finishes": (),
    }  # fmt: skip
    return Expected(**{**usual, **more})


def held(**more: Any) -> Expected:
    """The step runs, and whatever can run beside it has."""
    usual: dict[str, Any] = {"task": "in_progress", "place": "in_progress", "below": "pending", "finishes": ()}
    return Expected(**{**usual, **more})


def queued(**more: Any) -> Expected:
    """The step is on a queue that nobody has served."""
    return held(**{"place": "enqueued", "runs": 0, "attempts": 0, **more})


def cancelled(**more: Any) -> Expected:
    """Whatever had not ended is cancelled."""
    usual: dict[str, Any] = {
        "task": "cancelled",
        "place": "cancelled",
        "below": "cancelled",
        "finishes": ("cancelled",),
    }
    return Expected(**{**usual, **more})


def mended(**more: Any) -> Expected:
    """The task has failed once and completed then."""
    return Expected(**{"finishes": ("error", "complete"), **more})


def by_hand(**more: Any) -> Expected:
    """An operator gave the step's result."""
    return Expected(**{"place": "resolved_manually", **more})


def paused(expected: Expected, *, last: Expected) -> Callable[[Case], Expected]:
    """What is expected while paused, and where the step is the last one: that ends a task, paused or not."""
    return lambda case: last if case.is_last else expected
