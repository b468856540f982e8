"""Sends the step messages that a wide fan-out left for later."""

from __future__ import annotations

from typing import Any

from tasker.database import functions
from tasker.executors.executor import ExecutorKind
from tasker.executors.orchestration import OrchestrationExecutor
from tasker.messaging.queues import STEP_ENQUEUE


class StepEnqueuer(OrchestrationExecutor):
    """Takes messages of ``step_enqueue``; their steps are long ``enqueued``, only their messages are missing."""

    def __init__(self, **shared: Any) -> None:
        super().__init__(ExecutorKind.STEP_ENQUEUER, (STEP_ENQUEUE,), **shared)

    def drain(self, limit: int) -> int:
        """Send up to 256 messages for each of at most ``limit`` parents; how many parents there were."""
        self.start()
        answer = self.take(functions.enqueue_deferred_steps({"limit": limit}))
        self.tell(answer)
        self.counters.add(taken=answer["taken"], sent=answer["sent"])
        taken: int = answer["taken"]
        return taken
