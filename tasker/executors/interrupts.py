"""Breaking into a handler that runs too long, on whatever thread it runs.

On the main thread a signal does it, which also ends blocking calls such as ``time.sleep`` or a socket's ``recv``. On
any other thread Python offers an asynchronous exception, which is raised once the thread executes Python code again: a
handler that is stuck inside a C call is not interrupted, its late result is refused by the fence.

A handler that ends while it is being interrupted must not leave the exception to its successor. So each run has a
token, and whoever takes it, the interrupter or the end of the run, decides: if the interrupter was first, the end of
the run waits for the exception, which is then certain to come, and swallows it.
"""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

SIGNAL = signal.SIGALRM


class HandlerInterrupted(BaseException):
    """Raised in a handler that timed out or outlived its executor. Not an ``Exception``: retry loops let it pass."""


class Interrupter:
    """Runs functions on the thread that made it, so that other threads can interrupt them.

    ``_sending`` is held while a token is taken and the exception sent. On the main thread, ``install`` puts a signal
    handler in place and ``uninstall`` restores what was there.
    """

    def __init__(self) -> None:
        self._thread_id = threading.get_ident()
        self._by_signal = threading.current_thread() is threading.main_thread()
        self._sending = threading.Lock()
        self._signalled = False
        self._previous: Any = None
        self._installed = False

    def install(self) -> None:
        """Make ready; called on the thread itself."""
        if self._by_signal and not self._installed:
            self._previous = signal.signal(SIGNAL, self._on_signal)
            self._installed = True

    def uninstall(self) -> None:
        """Undo ``install``; called on the thread itself."""
        if self._installed:
            self._installed = False
            # None: the former handler was not set from Python and cannot be restored from here.
            signal.signal(SIGNAL, signal.SIG_DFL if self._previous is None else self._previous)

    def run(self, function: Callable[[], T], expose: Callable[[Callable[[], None] | None], None]) -> T:
        """``function()``, interruptible meanwhile.

        Args:
            function: what to run.
            expose: is given the function that interrupts, and at the end None.

        Raises:
            HandlerInterrupted: it was interrupted; whatever it returned or raised then is dropped.
        """
        token = [None]
        failure: BaseException | None = None
        result: T | None = None
        try:
            expose(lambda: self._interrupt(token))
            result = function()
        except HandlerInterrupted:
            expose(None)
            self._collect()
            raise
        except BaseException as error:
            failure = error
        try:
            expose(None)
            if not _take(token):
                self._collect()
                raise HandlerInterrupted
        except HandlerInterrupted:
            self._collect()
            raise HandlerInterrupted from failure
        if failure is not None:
            raise failure
        return result  # type: ignore[return-value]

    def _interrupt(self, token: list[None]) -> None:
        """Called on another thread: raise ``HandlerInterrupted`` in the run that owns ``token``, if it still runs."""
        with self._sending:
            if not _take(token):
                return
            if self._by_signal and self._installed and signal.getsignal(SIGNAL) == self._on_signal:
                self._signalled = True
                signal.pthread_kill(self._thread_id, SIGNAL)
            else:
                _raise_in(self._thread_id, HandlerInterrupted)

    def _collect(self) -> None:
        """On the thread itself, after a run whose token was taken from it: wait until nothing is still to come."""
        while True:
            try:
                with self._sending:
                    pass
                while self._signalled:
                    time.sleep(0.001)
                # An asynchronous exception was set before the lock was free, and is raised at the next jump back. It
                # cannot be taken back by setting none: CPython 3.11 then knows of an exception that no thread finds,
                # every thread looks for it from then on, and under a tracer, such as coverage's, none gets any further.
                for _ in range(3):
                    time.sleep(0)
                return
            except HandlerInterrupted:
                continue

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signalled:
            self._signalled = False
            raise HandlerInterrupted
        # Somebody else's alarm.
        if callable(self._previous):
            self._previous(number, frame)


def _take(token: list[None]) -> bool:
    # One bytecode operation on a built-in list: atomic, and nothing for an exception to interrupt half-way.
    try:
        token.pop()
    except IndexError:
        return False
    return True


def _raise_in(thread_id: int, exception: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(exception))
