"""What the orchestration executors share: a deadline for their statements, and telling others of new work."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tasker.database import functions
from tasker.executors.base import RegisteredExecutor
from tasker.executors.executor import ExecutorKind
from tasker.executors.grace import GracePeriod
from tasker.executors.link import Link
from tasker.messaging.queues import channel_name


class OrchestrationExecutor(RegisteredExecutor):
    """An executor whose drains are short: their statements, and what they do in between, have a deadline.

    Args:
        kind: its kind.
        queues: the queue it reads, if any.
        worker: who hosts it.
        link: the connection, which all executors of one loop may share: they drain in turn.
        grace: when it has to be done.
        processing_timeout_ms: deadline of one drain.
    """

    def __init__(
        self,
        kind: ExecutorKind,
        queues: tuple[str, ...],
        *,
        worker: str,
        link: Link,
        grace: GracePeriod,
        processing_timeout_ms: int,
    ) -> None:
        super().__init__(kind, queues, worker=worker, link=link, grace=grace)
        self._processing_timeout_ms = processing_timeout_ms
        # A call fails when it takes longer than a drain may.
        self._statement_timeout_ms = processing_timeout_ms

    @property
    def processor(self) -> str:
        """The name under which it claims."""
        return self.incarnation.executor

    @property
    def works(self) -> bool:
        """Whether a drain goes on that found something, and is not far beyond its deadline."""
        seconds = self.progress.drain_seconds
        return super().works and seconds is not None and seconds < 2 * self._processing_timeout_ms / 1000

    def deadline(self) -> float:
        """When a drain that begins now has to be over, by ``time.monotonic()``."""
        return time.monotonic() + self._processing_timeout_ms / 1000

    def tell(self, answer: Mapping[str, Any]) -> None:
        """Wake whom an answer names: idle consumers of ``queues``, and the waiting clients in ``notify``."""
        channels = [*answer.get("notify", ()), *(channel_name(queue) for queue in answer.get("queues", ()))]
        if channels:
            self.call(functions.notify(channels))
