"""Does the after-work of finished tasks: runs their completion hooks under a claim, then declares them final.

Their domain events leave in the transaction that does so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from tasker.database import functions
from tasker.executors.domain_events import TaskDomainEvents
from tasker.executors.executor import ExecutorKind
from tasker.executors.link import Link
from tasker.executors.orchestration import OrchestrationExecutor
from tasker.hooks.claim_keeper import ClaimKeeper
from tasker.hooks.completion import CompletionHooks
from tasker.hooks.events import Publishing
from tasker.messaging.queues import TASK_FINALIZATION

logger = logging.getLogger(__name__)


class TaskFinalizer(OrchestrationExecutor):
    """Claims finished tasks from ``task_finalization`` and does what is left to do for them.

    A hook that fails leaves its task unfinished: the claim is given back, the message comes back after its visibility
    timeout, and a finalizer tries again, this or another.

    Args:
        hooks: runs completion hooks.
        publishing: makes what publishes domain events, given what raises counters.
        claim_timeout_seconds: after this, a claim that is not extended is void.
        keeper_link: makes the connection over which claims are extended.
        shared: as for every orchestration executor.
    """

    def __init__(
        self,
        *,
        hooks: CompletionHooks,
        publishing: Callable[[Callable[..., None]], Publishing],
        claim_timeout_seconds: int,
        keeper_link: Callable[[], Link],
        **shared: Any,
    ) -> None:
        super().__init__(ExecutorKind.TASK_FINALIZER, (TASK_FINALIZATION,), **shared)
        self._hooks = hooks
        self._domain_events = TaskDomainEvents(publishing(self.counters.add))
        self._claim_timeout_seconds = claim_timeout_seconds
        self._keeper_link = keeper_link

    def drain(self, limit: int) -> int:
        """Finalize at most ``limit`` tasks; how many were claimed.

        Once the deadline of a drain has passed, no further hook is begun; what is left is given back.
        """
        self.start()
        processor, deadline = self.processor, self.deadline()
        answer = self.take(
            functions.claim_tasks_for_finalization(
                {"processor": processor, "limit": limit, "timeout_seconds": self._claim_timeout_seconds}
            )
        )
        claims: list[dict[str, Any]] = answer["claims"]
        if not claims:
            return 0
        keeper = ClaimKeeper(self._keeper_link(), processor, self._claim_timeout_seconds)
        keeper.keep(claims)
        try:
            for index, claim in enumerate(claims):
                if self.grace.begun or (index > 0 and time.monotonic() > deadline):
                    self._give_back(claim, processor)
                else:
                    self._finalize(claim, processor)
                keeper.done(claim["task_uuid"])
        finally:
            keeper.close()
        return len(claims)

    def _finalize(self, claim: dict[str, Any], processor: str) -> None:
        try:
            work = self._hooks.run(claim, self.call)
        except Exception:
            logger.exception(
                "a completion hook of task %s (%s/%s) failed; it is tried again",
                claim["task_uuid"],
                claim["namespace"],
                claim["name"],
            )
            self._give_back(claim, processor)
            self.counters.add(hooks_failed=1)
            return
        said = self._domain_events.prepare(work)
        answer = self.call(
            functions.finalize_task(
                {
                    "task_uuid": claim["task_uuid"],
                    "processor": processor,
                    "claim_no": claim["claim_no"],
                    "msg_id": claim["msg_id"],
                    **said,
                }
            )
        )
        self.tell(answer)
        finalized = answer["answer"] == "finalized"
        if finalized:
            self._domain_events.ended(work, claim, said)
        else:
            logger.info("task %s was not finalized: %s", claim["task_uuid"], answer["answer"])
        self.counters.add(taken=1, finalized=int(finalized), hooks=work.hooks)

    def close(self) -> None:
        """End the delivery of fast events, and close the connection."""
        self._domain_events.close()
        super().close()

    def _give_back(self, claim: dict[str, Any], processor: str) -> None:
        self.call(functions.release_finalization_claim(claim["task_uuid"], processor, claim["claim_no"]))
        self.counters.add(given_back=1)
