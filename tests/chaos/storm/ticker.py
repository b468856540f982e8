"""A process that does nothing but tick, so that a kill is likely to hit one: ``python -m tests.chaos.storm.ticker``.

It ends when its standard input does.
"""

from __future__ import annotations

import select
import sys

import psycopg

from tasker.coordinator.coordinator import Coordinator
from tasker.core import OrchestrationCore
from tasker.errors import TaskerError

PAUSE_SECONDS = 0.01


def main() -> None:
    """Tick and tick."""
    with OrchestrationCore.from_settings() as core:
        coordinator = Coordinator(core)
        while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
            try:
                coordinator.tick()
            except (psycopg.Error, TaskerError) as error:
                print(f"no tick: {error}", flush=True)


if __name__ == "__main__":
    main()
