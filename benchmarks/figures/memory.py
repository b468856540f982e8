"""The memory of one executor process over a long run: after the first 10,000 steps, and again and again until the end.

What is counted is the proportional share (PSS) of the process, where the system tells it, else what is its alone.
"""

from __future__ import annotations

import tempfile

from benchmarks.engines.base import Place
from benchmarks.engines.processes import Workers
from benchmarks.engines.tasker_setup import count_executors, request, start_plain_executor
from benchmarks.figures.found import Found
from benchmarks.figures.sizes import Sizes
from benchmarks.inside import CHAIN, SUBMITTED_AT_ONCE, database
from benchmarks.meters import memory_bytes
from benchmarks.servers import Servers
from tasker import Tasker
from tasker.client.handle import TaskHandle

FIRST_STEPS = 10_000
LONGEST_SECONDS = 600.0


def measure(found: Servers, sizes: Sizes) -> Found:
    """Megabytes after the first steps and at the end, and how many times as much that is."""
    seen: dict[int, float] = {}
    with (
        database(found.postgresql) as url,
        tempfile.TemporaryDirectory(prefix="tasker-bench-") as folder,
        Tasker(url) as client,
    ):
        workers = Workers(Place("", "", "", folder))
        try:
            start_plain_executor(workers, "steps", "steps", url)
            workers.until(lambda: count_executors(url) == 1, "an executor")
            tasks = FIRST_STEPS // CHAIN.steps
            before: list[TaskHandle] = []
            done = 0
            while done < sizes.memory_steps:
                handles: list[TaskHandle] = []
                for first in range(0, tasks, SUBMITTED_AT_ONCE):
                    numbers = range(first, min(first + SUBMITTED_AT_ONCE, tasks))
                    handles += client.create_many([request(CHAIN, n) for n in numbers])
                # One part is created while the other is worked off, so that the executor never rests.
                if before:
                    client.wait_all(before, LONGEST_SECONDS)
                    done += FIRST_STEPS
                    seen[done] = memory_bytes(workers.pids) / 2**20
                before = handles
        finally:
            workers.stop()
    early, late = seen[FIRST_STEPS], seen[done]
    figures = {"memory_growth": [late / early], "memory_first_mb": [early], "memory_last_mb": [late]}
    return Found(figures, size=done, details={"megabytes": {str(steps): value for steps, value in seen.items()}})
