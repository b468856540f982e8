"""Tasks at a steady rate, one call each."""

from __future__ import annotations

import threading
import time
from collections import Counter

from benchmarks.soak.workflows import NAMESPACE, context_of, end_of, priority_of, shape_of
from tasker import Tasker

LONGEST_DEBT_SECONDS = 5.0
"""After a longer halt what was missed is not made up for: the rate shall be steady."""


class Stream:
    """A thread that creates tasks until it is told to end.

    Args:
        client: by whom.
        rate: how many each second.
    """

    def __init__(self, client: Tasker, rate: float) -> None:
        self.created: Counter[str] = Counter()
        """Tasks created so far, by the state in which they have to end."""

        self.refused: Counter[str] = Counter()
        """Calls that raised, by error; each number is tried once, so its task may or may not exist."""

        self._client = client
        self._period = 1 / rate
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Create no more."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        due, n = time.monotonic(), 0
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._period, time.monotonic() - LONGEST_DEBT_SECONDS)
            try:
                self._client.create(NAMESPACE, shape_of(n), context_of(n), priority=priority_of(n))
                self.created[end_of(n)] += 1
            except Exception as error:  # whatever it is, it is told at the end
                self.refused[f"{type(error).__name__}: {error}"[:300]] += 1
            n += 1
