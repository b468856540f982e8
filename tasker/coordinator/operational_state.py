"""``OperationalState``: what the whole system is doing on purpose, so that health and alerts know what to expect.

``startup → normal → graceful_shutdown → stopped → startup``, and ``emergency`` from all but ``stopped``. Ticks and
workers move it by what they see; people by command, before a deploy or in need. The moves are decided in SQL
(``set_operational_state.sql``, ``judge_operational_state.sql``), and each leaves a row in its history.
"""

from __future__ import annotations

from typing import Any

import psycopg

from tasker.database.calls import run
from tasker.database.operational import (
    CurrentState,
    StateChange,
    StateTransition,
    judge_operational_state,
    operational_state,
    operational_state_transitions,
    set_operational_state,
)

STATES = ("startup", "normal", "graceful_shutdown", "emergency", "stopped")


class OperationalState:
    """The state, over one connection.

    Args:
        connection: in autocommit mode, or in the caller's transaction.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def current(self) -> CurrentState:
        """The state, since when, by whom and why."""
        return run(self._connection, operational_state())

    def history(self, limit: int = 50) -> tuple[StateTransition, ...]:
        """The latest changes, the newest first."""
        return run(self._connection, operational_state_transitions(limit))

    def set(self, state: str, *, by: str, reason: str | None = None) -> StateChange:
        """Change it, as a person who knows.

        Raises:
            InvalidRequest: there is no such state.
            InvalidTransition: the present state does not become that one.
        """
        return run(self._connection, set_operational_state(state, by=by, reason=reason))

    def judge(self, within_seconds: float, *, leaving: bool = False) -> StateChange:
        """Change it by what is seen.

        Args:
            within_seconds: a worker or executor without a heartbeat for longer is not there.
            leaving: the caller is a worker that ends, and is no longer registered.
        """
        return run(self._connection, judge_operational_state(within_seconds=within_seconds, leaving=leaving))
