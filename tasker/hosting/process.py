"""The one ``OrchestrationCore`` of a process, made on first use, and anew in each fork."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasker.core import OrchestrationCore

_all: weakref.WeakSet[ProcessCore] = weakref.WeakSet()


class ProcessCore:
    """Makes a core when this process first needs one.

    A forked child forgets the core it inherited, without closing it: its connections are the parent's.

    Args:
        make: builds a core.
    """

    def __init__(self, make: Callable[[], OrchestrationCore]) -> None:
        self._make = make
        self._lock = threading.Lock()  # owns _core
        self._core: OrchestrationCore | None = None
        _all.add(self)

    def get(self) -> OrchestrationCore:
        """The core of this process."""
        with self._lock:
            if self._core is None:
                self._core = self._make()
            return self._core

    def close(self, timeout_seconds: float = 10) -> None:
        """Close the core, if this process made one."""
        with self._lock:
            core, self._core = self._core, None
        if core is not None:
            core.close(timeout_seconds=timeout_seconds)

    def forget(self) -> None:
        """As a fork does."""
        self._lock = threading.Lock()
        self._core = None


def _forget_all() -> None:
    for process in _all:
        process.forget()


os.register_at_fork(after_in_child=_forget_all)
