"""One way to open the connections that live as long as their process: listeners and broker sessions."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import conninfo

from tasker.resilience.answer_timeout import TimedConnection

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_SECONDS = 35.0
"""Longest silence of the server in the middle of a call, unless somebody knows better."""

_rescuers: list[Callable[[str], None]] = []


def add_rescuer(rescue: Callable[[str], None]) -> None:
    """Have ``rescue(dsn)`` called after each failed attempt to connect, before the error is raised.

    It may bring the server back (the embedded one is restarted so); the caller's next attempt then succeeds. What it
    raises is logged and otherwise ignored.
    """
    if rescue not in _rescuers:
        _rescuers.append(rescue)


def connect(
    dsn: str, *, name: str, timeout_seconds: float = 5.0, answer_timeout_seconds: float = ANSWER_TIMEOUT_SECONDS
) -> TimedConnection[Any]:
    """A connection in autocommit that notices a dead peer within about a minute.

    Args:
        dsn: a connection string for libpq; what it says about keepalives or the application's name is kept.
        name: the application's name, as ``pg_stat_activity`` shows it.
        timeout_seconds: how long to try; libpq counts whole seconds, 2 at least.
        answer_timeout_seconds: longest silence of the server in the middle of a call.

    Raises:
        psycopg.OperationalError: no connection; rescuers have been called.
    """
    defaults: dict[str, Any] = {
        "application_name": name,
        "client_encoding": "UTF8",
        "connect_timeout": max(2, round(timeout_seconds)),
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": round(answer_timeout_seconds * 1000),
    }
    try:
        given = conninfo.conninfo_to_dict(dsn)
        connection = TimedConnection.connect(
            dsn, autocommit=True, **{key: value for key, value in defaults.items() if key not in given}
        )
    except psycopg.OperationalError:
        for rescue in tuple(_rescuers):
            try:
                rescue(dsn)
            except Exception:
                logger.warning("the attempt to bring the database back failed", exc_info=True)
        raise
    connection.patience.seconds = answer_timeout_seconds
    return connection


def abandon_socket(connection: psycopg.Connection[Any]) -> None:
    """Let go of a connection's socket in a forked child; the connection is the parent's and is not to be used here.

    The server shall see the end of the session when the parent ends, not when its last child does. The descriptor keeps
    its number (on ``/dev/null``), so that nothing else gets it and is harmed by a late use.
    """
    with suppress(psycopg.Error, OSError):
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, connection.fileno())
        os.close(null)
