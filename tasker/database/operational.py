"""The operational state of the whole system: one row, and its history."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import orjson

from tasker.database.calls import Call, Rows
from tasker.encoding import decode


@dataclass(frozen=True, slots=True)
class StateChange:
    """What became of a wish to change the state.

    Attributes:
        before: the state that was.
        state: the state that is.
    """

    before: str
    state: str

    @property
    def changed(self) -> bool:
        """Whether it is another now."""
        return self.before != self.state


@dataclass(frozen=True, slots=True)
class StateTransition:
    """One change of the state, who made it and why."""

    at: dt.datetime
    from_state: str
    to_state: str
    actor: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class CurrentState:
    """The state, since when, by whom and why."""

    state: str
    changed_at: dt.datetime
    changed_by: str | None
    reason: str | None


def operational_state() -> Call[CurrentState]:
    """The state as it is."""
    return Call(
        "SELECT state, changed_at, changed_by, reason FROM tasker.operational_state",
        decode=lambda rows: CurrentState(*rows[0]),
    )


def operational_state_transitions(limit: int = 50) -> Call[tuple[StateTransition, ...]]:
    """The latest changes, the newest first."""
    return Call(
        "SELECT at, from_state, to_state, actor, reason FROM tasker.operational_state_transitions"
        " ORDER BY at DESC LIMIT CAST(%(quantity)s AS integer)",
        {"quantity": limit},
        decode=lambda rows: tuple(StateTransition(*row) for row in rows),
    )


def set_operational_state(state: str, *, by: str, reason: str | None = None) -> Call[StateChange]:
    """Change the state, as a person.

    Raises:
        InvalidTransition: the present state does not become that one.
    """
    request = {"state": state, "by": by, "reason": reason}
    return Call(
        "SELECT CAST(tasker.set_operational_state(CAST(%(request)s AS jsonb)) AS text)",
        {"request": orjson.dumps(request).decode()},
        decode=_change,
    )


def judge_operational_state(*, within_seconds: float, leaving: bool = False) -> Call[StateChange]:
    """Change the state by what is seen.

    Args:
        within_seconds: a worker or executor without a heartbeat for longer is not there.
        leaving: the caller is a worker that ends, and is no longer registered.
    """
    request = {"within_seconds": within_seconds, "leaving": leaving}
    return Call(
        "SELECT CAST(tasker.judge_operational_state(CAST(%(request)s AS jsonb)) AS text)",
        {"request": orjson.dumps(request).decode()},
        decode=_change,
    )


def _change(rows: Rows) -> StateChange:
    answer: Any = decode(rows[0][0])
    return StateChange(answer["from"], answer["state"])
