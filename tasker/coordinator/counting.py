"""Counting the history for metrics, a bounded part at a time."""

from __future__ import annotations

import time
from typing import Any

import psycopg

from tasker.database import functions
from tasker.database.calls import run
from tasker.database.figures import collect_metrics

FIRST_PART_SECONDS = 20.0
"""So much history is counted at once at first: two ticks' worth, so that one part is enough where ticks are in time."""

GROWTH = 4
"""After a long pause of the whole system there is little in much time: parts grow while each is counted quickly."""

QUICK_SECONDS = 0.25
LONGEST_SECONDS = 4.0
"""A call ends after about so long; what is left is counted by the next one."""

TIMEOUT_MS = 5000


def count_history(connection: psycopg.Connection[Any]) -> int:
    """Count what has come to the history into the totals; how many parts there were.

    Args:
        connection: in autocommit mode; each part is a transaction.

    Raises:
        psycopg.errors.QueryCanceled: a part took too long, and nothing of it is counted.
    """
    deadline = time.monotonic() + LONGEST_SECONDS
    part, most_seconds = 0, FIRST_PART_SECONDS
    while True:
        begun = time.monotonic()
        with connection.transaction():
            timeouts = {"statement_timeout": f"{TIMEOUT_MS}ms", "lock_timeout": f"{TIMEOUT_MS // 5}ms"}
            run(connection, functions.set_local(**timeouts))
            done = run(connection, collect_metrics(most_seconds))
        part += int(done.counted)
        now = time.monotonic()
        if not done.behind or now >= deadline:
            return part
        if now - begun < QUICK_SECONDS:
            most_seconds *= GROWTH
