"""Asking the database from the event loop: on threads of its own, and never for longer than there is time."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar

T = TypeVar("T")

ANSWER_SHARE, PATIENCE_SHARE = 0.9, 0.6
"""Of a request's time: until what blocks is given up, so that there is time to say so; and how long the database's
silence is borne, so that threads are free by then."""

PROBE_THREADS = 2
"""For readiness alone, which must be answered while all other threads wait."""


@dataclass(frozen=True)
class Allowance:
    """How long an endpoint may take.

    Attributes:
        seconds: until its answer is given up.
        patience_seconds: longest wait for a connection, and longest silence of the server.
    """

    seconds: float
    patience_seconds: float

    @classmethod
    def of(cls, request_timeout_ms: int, most_seconds: float) -> Self:
        """What fits into a request's time, and is at most ``most_seconds`` of patience."""
        seconds = request_timeout_ms / 1000
        patience = min(most_seconds, PATIENCE_SHARE * seconds)
        return cls(min(ANSWER_SHARE * seconds, patience * ANSWER_SHARE / PATIENCE_SHARE), patience)


class Asking:
    """Runs blocking calls, as many at once as there are connections.

    Args:
        threads: how many calls run at once.
    """

    def __init__(self, threads: int) -> None:
        self._requests = ThreadPoolExecutor(threads, thread_name_prefix="tasker-web")
        self._probes = ThreadPoolExecutor(PROBE_THREADS, thread_name_prefix="tasker-probe")

    async def ask(self, call: Callable[..., T], /, *arguments: Any, seconds: float, probe: bool = False) -> T:
        """``call(*arguments)`` on a thread.

        Args:
            call: what blocks. It must end by itself: given up here, its thread still waits for it.
            arguments: its arguments.
            seconds: longest wait.
            probe: use the threads that are kept for readiness.

        Raises:
            TimeoutError: it took longer.
        """
        pool = self._probes if probe else self._requests
        running = asyncio.get_running_loop().run_in_executor(pool, functools.partial(call, *arguments))
        async with asyncio.timeout(seconds):
            return await running

    def close(self) -> None:
        """Take no more calls; those under way end by themselves."""
        self._requests.shutdown(wait=False, cancel_futures=True)
        self._probes.shutdown(wait=False, cancel_futures=True)
