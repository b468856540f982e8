"""Running everything there is to run, in this process, without Celery."""

from __future__ import annotations

import time
from collections import Counter

from tasker.core import OrchestrationCore
from tasker.database import reads
from tasker.database.calls import run
from tasker.executors.executor import ExecutorKind
from tasker.executors.stop import StopSignal


def run_until_idle(core: OrchestrationCore, timeout_seconds: float = 30.0) -> dict[str, int]:
    """Run executors of all six kinds, over the queues of all namespaces, until none of them finds anything to do.

    What falls due later (a retry's backoff, a task with a ``run_at``) is left: move the clock on and call it again.
    Steps that are Celery tasks are sent only if ``core`` can send them; nobody waits for their results here.

    Args:
        core: what the executors are built from.
        timeout_seconds: longest time to take.

    Returns:
        How many messages, steps and tasks the executors of each kind took.

    Raises:
        TimeoutError: there was still something to do.
        psycopg.Error: the database cannot be reached, or refuses.
    """
    deadline = time.monotonic() + timeout_seconds
    served: frozenset[str] | None = None
    taken: Counter[str] = Counter()
    # Once more if a namespace came up meanwhile: a handler may have registered a workflow.
    while served != (queues := _step_queues(core)):
        served = queues
        stop = StopSignal()
        try:
            with core.build_loop(tuple(ExecutorKind), sorted(queues), stop=stop, worker="run_until_idle") as loop:
                taken.update(loop.run_until_idle(max(0.0, deadline - time.monotonic())).taken)
        finally:
            stop.close()
    return dict(taken)


def _step_queues(core: OrchestrationCore) -> frozenset[str]:
    with core.database.connection() as connection:
        return frozenset(namespace.queue for namespace in run(connection, reads.namespaces()))
