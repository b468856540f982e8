"""What a run costs: CPU time of processes with all their children, and the memory that they hold."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence

import psutil

SAMPLE_SECONDS = 0.5


def tree(roots: Sequence[int]) -> list[psutil.Process]:
    """These processes and all below them that live."""
    found: dict[int, psutil.Process] = {}
    for root in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(root)
            for each in (process, *process.children(recursive=True)):
                found[each.pid] = each
    return list(found.values())


def cpu_seconds(roots: Sequence[int]) -> float:
    """CPU time so far of these processes and all below them, those included that have ended.

    A process that has ended and was waited for counts in its parent's sum of children, so that the sum over all that
    live never falls.
    """
    total = 0.0
    for process in tree(roots):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
            total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total


def memory_bytes(roots: Sequence[int]) -> int:
    """Memory of these processes and all below them: their proportional share (PSS), or what is theirs alone (USS)."""
    total = 0
    for process in tree(roots):
        with contextlib.suppress(psutil.Error):
            memory = process.memory_full_info()
            total += getattr(memory, "pss", None) or memory.uss
    return total


class Meter:
    """CPU time by name of what is metered."""

    def __init__(self, groups: Mapping[str, Sequence[int]]) -> None:
        self._groups = dict(groups)
        self._before = self._read()

    def _read(self) -> dict[str, float]:
        return {name: cpu_seconds(roots) for name, roots in self._groups.items()}

    def spent(self) -> dict[str, float]:
        """Seconds by name since this was made."""
        return {name: now - self._before[name] for name, now in self._read().items()}


class Peak:
    """The most memory that each of several roots held, with all below it."""

    def __init__(self, roots: Sequence[int]) -> None:
        self.bytes = dict.fromkeys(roots, 0)

    def look(self) -> None:
        """Look once."""
        for root, most in self.bytes.items():
            self.bytes[root] = max(most, memory_bytes([root]))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look twice a second until the end of the block, and at its end."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(SAMPLE_SECONDS):
                self.look()

        thread = threading.Thread(target=watch, name="memory", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.look()
