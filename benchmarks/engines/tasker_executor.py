"""An executor loop without Celery: ``python -m benchmarks.engines.tasker_executor steps|orchestration <queue>``.

The database comes from ``DATABASE_URL``; SIGTERM ends it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from tasker.core import OrchestrationCore
from tasker.executors.executor import ORCHESTRATION_KINDS, ExecutorKind
from tasker.executors.stop import StopSignal

KINDS = {"steps": (ExecutorKind.STEP_EXECUTOR,), "orchestration": ORCHESTRATION_KINDS}


def main() -> None:
    """Run until told to stop."""
    stop = StopSignal()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with OrchestrationCore.from_settings() as core:
        worker = f"{sys.argv[1]}-{os.getpid()}@{socket.gethostname()}"
        with core.build_loop(KINDS[sys.argv[1]], [sys.argv[2]], stop=stop, worker=worker) as loop:
            loop.run()


if __name__ == "__main__":
    main()
