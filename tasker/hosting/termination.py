r"""SIGTERM in a pool process: end the executor in order instead of at once.

Service managers send the signal to every process of a service, and a cold shutdown sends it to the pool. The default
action would leave the executor's steps to be found by the next sweep, a lease later, and count each as a loss. SIGQUIT,
which Ctrl-\ in a terminal and some service managers send to all, would raise in the middle of a handler.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tasker.executors.stop import StopSignal

SIGNALS = (signal.SIGTERM, signal.SIGQUIT)

_LOOK_SECONDS = 0.05


@contextmanager
def termination_caught(longest_seconds: Callable[[], float]) -> Iterator[StopSignal]:
    """Within the block, SIGTERM and SIGQUIT set the signal that is yielded, for this process alone.

    The process lives on when the block ends in time: whoever wants it gone sends the signal again. Outside a process's
    main thread, where Python handles signals, nothing is caught.

    Args:
        longest_seconds: how long after the signal the block may go on, asked again and again; then the process exits.
    """
    stop = StopSignal()
    over = threading.Event()

    def exit_when_late() -> None:
        began = time.monotonic()
        while not over.wait(_LOOK_SECONDS):
            if time.monotonic() - began > longest_seconds():
                os._exit(128 + signal.SIGTERM)

    def on_signal(number: int, frame: Any) -> None:
        if not stop.is_set():
            stop.set()
            threading.Thread(target=exit_when_late, name="tasker-termination", daemon=True).start()

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, on_signal) for number in SIGNALS} if main else {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        over.set()
        stop.close()
