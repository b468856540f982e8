"""The event loop of one executor: async handlers of all its steps run on it, side by side."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

from tasker.executors.held import HeldStep

CANCEL_SECONDS = 1.0
"""How long handlers may take to heed their cancellation when the executor ends."""


class AsyncRunner:
    """A thread with an event loop, both made when the first async handler is to run.

    ``_lock`` owns ``_loop`` and ``_thread``; ``_tasks`` belongs to the loop's thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: dict[HeldStep, asyncio.Task[None]] = {}

    def run(self, step: HeldStep, attempt: Callable[[HeldStep], Awaitable[None]]) -> None:
        """Start ``attempt(step)`` on the loop and return. ``attempt`` itself handles whatever goes wrong in it."""
        loop = self._running_loop()
        step.interrupt = lambda: self.cancel(step)
        loop.call_soon_threadsafe(self._start, step, attempt)

    def cancel(self, step: HeldStep) -> None:
        """Have ``CancelledError`` raised in the handler of ``step``, if it runs here."""
        with self._lock:
            loop = self._loop
            if loop is not None:
                loop.call_soon_threadsafe(self._cancel, step)

    def close(self) -> None:
        """Cancel what still runs, and end the loop and its thread. Idempotent."""
        with self._lock:
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
            if loop is not None:
                loop.call_soon_threadsafe(loop.stop)
        if thread is not None:
            # A handler that blocks the loop cannot be waited for; the thread is a daemon and ends with the process.
            thread.join(2 * CANCEL_SECONDS)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._serve, args=(self._loop,), name="tasker-async-handlers", daemon=True
                )
                self._thread.start()
            return self._loop

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=CANCEL_SECONDS))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def _start(self, step: HeldStep, attempt: Callable[[HeldStep], Awaitable[None]]) -> None:
        async def guarded() -> None:
            try:
                await attempt(step)
            finally:
                self._tasks.pop(step, None)

        self._tasks[step] = asyncio.get_running_loop().create_task(guarded())

    def _cancel(self, step: HeldStep) -> None:
        task = self._tasks.get(step)
        if task is not None:
            task.cancel()
