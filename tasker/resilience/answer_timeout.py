"""Connections that do not wait for ever: a server that says nothing in the middle of a call counts as lost.

A network may die without a word: the server's host is gone, or a device in between forgot the connection. TCP notices
that late, and not at all while something in between goes on acknowledging; the server's ``statement_timeout`` is no
help, since what it says does not arrive. So every wait for an answer has an end here, on the client's side. Whether the
call was carried out is unknown then, as when a connection is cut during COMMIT, and is dealt with in the same way.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.rows import Row

HURRIED_SECONDS = 5.0
"""Longest silence while the process is about to end."""

_LOOK_SECONDS = 0.1
"""How often a wait looks whether it has lasted long enough; psycopg's own waits look as often."""

_hurries: list[tuple[Callable[[], bool], float | None]] = []


class AnswerTimeout(psycopg.OperationalError):
    """The server said nothing in the middle of a call, and the connection is closed: what the call did is unknown."""


def hurry_when(asked: Callable[[], bool], seconds: float | None = None) -> None:
    """Bear at most ``seconds`` of silence on any connection of this process while ``asked()``.

    Args:
        asked: whether the process shall end; called often, so it must be quick.
        seconds: what is borne then; ``HURRIED_SECONDS`` when ``None``.
    """
    _hurries.append((asked, seconds))


def hurry_no_more(asked: Callable[[], bool]) -> None:
    """Take back ``hurry_when``; what was not asked is no error."""
    _hurries[:] = [hurry for hurry in _hurries if hurry[0] != asked]


class Patience:
    """How long one connection bears silence. Any thread may change it, also during a call.

    Attributes:
        seconds: longest silence in the middle of a call; infinite where there is no end.
        at_present: a further bound, asked anew while a call waits.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = float("inf") if seconds is None else seconds
        self.at_present: Callable[[], float] | None = None

    @contextmanager
    def at_most(self, seconds: float | None) -> Iterator[None]:
        """Bear less for the time of the block, where ``seconds`` are less; ``None`` changes nothing."""
        before = self.seconds
        if seconds is not None:
            self.seconds = min(before, seconds)
        try:
            yield
        finally:
            self.seconds = before

    def is_over(self, silent_seconds: float) -> bool:
        """Whether so much silence is too much."""
        if silent_seconds >= self.seconds:
            return True
        if self.at_present is not None and silent_seconds >= self.at_present():
            return True
        return any(
            silent_seconds >= (HURRIED_SECONDS if seconds is None else seconds) and asked()
            for asked, seconds in _hurries
        )


class TimedConnection(psycopg.Connection[Row]):
    """A psycopg connection of which no call waits longer in silence than ``patience`` says.

    The connection is closed then, and the call raises ``AnswerTimeout``. What counts is silence, not duration: an
    answer of many megabytes may take its time. Connecting has its own time-out, ``connect_timeout``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.patience = Patience()

    def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        """Everything that psycopg does with the server goes through here."""
        try:
            return super().wait(_until_silence(gen, self.patience), *args, **kwargs)
        except AnswerTimeout:
            self.pgconn.finish()
            raise

    def wait_for_socket(self, events: int) -> None:
        """Wait until the socket is ready, for those who speak to libpq themselves.

        Args:
            events: ``select.POLLIN``, ``select.POLLOUT``, or both.

        Raises:
            AnswerTimeout: it was not in time.
        """
        poller = select.poll()
        poller.register(self.pgconn.socket, events)
        began = monotonic()
        while not poller.poll(_LOOK_SECONDS * 1000):
            self.check_silence(began)

    def check_silence(self, since: float) -> None:
        """Close the connection if it has been silent for too long.

        Args:
            since: when the wait began, by ``time.monotonic()``.

        Raises:
            AnswerTimeout: it has.
        """
        silent_seconds = monotonic() - since
        if self.patience.is_over(silent_seconds):
            self.pgconn.finish()
            raise _timed_out(silent_seconds)


class AsyncTimedConnection(psycopg.AsyncConnection[Row]):
    """As ``TimedConnection``, for asyncio."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.patience = Patience()

    async def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        """Everything that psycopg does with the server goes through here."""
        try:
            return await super().wait(_until_silence(gen, self.patience), *args, **kwargs)
        except AnswerTimeout:
            self.pgconn.finish()
            raise


def _until_silence(gen: PQGen[RV], patience: Patience) -> Generator[Any, Any, RV]:
    """``gen``, until nothing has arrived, and nothing could be sent, for too long.

    psycopg resumes such a generator when the socket is ready and, with nothing to say, every tenth of a second.
    """
    ready: Any = None
    quiet_since: float | None = None
    while True:
        try:
            wanted = gen.send(ready)
        except StopIteration as end:
            result: RV = end.value
            return result
        ready = yield wanted
        # Calls are many and most are answered at once: those cost no look at the clock.
        if ready:
            quiet_since = None
        elif quiet_since is None:
            quiet_since = monotonic()
        else:
            silent_seconds = monotonic() - quiet_since
            if patience.is_over(silent_seconds):
                raise _timed_out(silent_seconds)


def _timed_out(silent_seconds: float) -> AnswerTimeout:
    return AnswerTimeout(f"the server has not answered for {silent_seconds:.1f} s; the connection counts as lost")
