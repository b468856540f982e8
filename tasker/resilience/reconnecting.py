"""Trying again after a connection was lost: with growing, jittered waits, and an ear for whoever wants to give up.

Only connections are tried again here. Whether a *statement* may be repeated is its caller's knowledge.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import tenacity

from tasker.errors import CircuitOpen

T = TypeVar("T")

logger = logging.getLogger(__name__)

FIRST_WAIT_SECONDS = 0.05
LONGEST_WAIT_SECONDS = 2.0


class GaveUp(Exception):
    """Whoever waited stopped before the connection came back; ``__cause__`` is the last failure."""


def retry_connection(
    attempt: Callable[[], T],
    *,
    is_lost: Callable[[BaseException], bool],
    give_up: Callable[[], bool],
    sleep: Callable[[float], None],
    what: str,
    longest_wait_seconds: float = LONGEST_WAIT_SECONDS,
) -> T:
    """``attempt()`` until it neither loses nor misses its connection.

    Args:
        attempt: connects where needed, and does the work.
        is_lost: whether an error means that there is no connection; any other error is raised at once. An open circuit
            always counts.
        give_up: asked before each wait.
        sleep: waits that many seconds, or less when it is time to ask ``give_up`` again.
        what: names the connection in the log.
        longest_wait_seconds: where the doubling waits stop growing.

    Raises:
        GaveUp: ``give_up`` said so.
    """

    def before_sleep(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        # The first failure is news, the hundredth is not.
        level = logging.WARNING if state.attempt_number in (1, 5) or state.attempt_number % 20 == 0 else logging.DEBUG
        logger.log(level, "%s: no connection to the database (attempt %d): %s", what, state.attempt_number, error)

    def stop(_state: tenacity.RetryCallState) -> bool:
        return give_up()

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, CircuitOpen) or is_lost(error)),
        wait=tenacity.wait_exponential(multiplier=FIRST_WAIT_SECONDS, max=longest_wait_seconds)
        + tenacity.wait_random(0, FIRST_WAIT_SECONDS),
        stop=stop,
        sleep=sleep,
        before_sleep=before_sleep,
    )
    try:
        return retrying(attempt)
    except tenacity.RetryError as error:
        raise GaveUp(f"{what}: gave up waiting for the database") from error.last_attempt.exception()
