"""SIGTERM in a pool process: end the executor in order instead of at once.

Service managers send the signal to every process of a service, and a cold shutdown sends it to the pool. The default
action would leave the executor's steps to be found by the next sweep, a lease later, and count each as a loss.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasker.executors.stop import StopSignal


@contextmanager
def termination_caught(grace_seconds: float) -> Iterator[StopSignal]:
    """Within the block, SIGTERM sets the signal that is yielded, for this process alone.

    The process lives on when the block ends in time: whoever wants it gone sends the signal again. Outside a process's
    main thread, where Python handles signals, nothing is caught.

    Args:
        grace_seconds: how long after the signal the block may go on; then the process exits.
    """
    stop = StopSignal()
    timer = threading.Timer(grace_seconds, os._exit, (128 + signal.SIGTERM,))
    timer.daemon = True

    def on_signal(number: int, frame: Any) -> None:
        if not stop.is_set():
            stop.set()
            timer.start()

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, on_signal) if main else None
    try:
        yield stop
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
        timer.cancel()
        stop.close()
