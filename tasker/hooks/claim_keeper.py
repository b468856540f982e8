"""Keeps finalization claims alive while their hooks run, however long that takes."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import psycopg

from tasker.database import functions
from tasker.errors import TaskerError
from tasker.resilience.reconnecting import GaveUp

if TYPE_CHECKING:
    from tasker.executors.link import Link

logger = logging.getLogger(__name__)


class ClaimKeeper:
    """Extends the claims of one batch from a thread of its own, which exists only while the batch lasts.

    Most batches are over long before the first extension is due; the connection is opened when it is.

    Args:
        link: the thread's connection.
        processor: who holds the claims.
        timeout_seconds: after how long a claim expires.
    """

    def __init__(self, link: Link, processor: str, timeout_seconds: int) -> None:
        self._link = link
        self._processor = processor
        self._timeout_seconds = timeout_seconds
        self._state = threading.Condition()  # owns the two members below
        self._claims: dict[str, int] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="tasker-claim-keeper", daemon=True)

    def keep(self, claims: list[dict[str, Any]]) -> None:
        """Keep these claims from now on."""
        self._claims = {claim["task_uuid"]: claim["claim_no"] for claim in claims}
        self._thread.start()

    def done(self, task_uuid: str) -> None:
        """This one is over."""
        with self._state:
            self._claims.pop(task_uuid, None)

    def close(self) -> None:
        """End the thread and close its connection."""
        with self._state:
            self._closing = True
            self._state.notify()
        self._thread.join()
        self._link.drop()

    def _run(self) -> None:
        while True:
            with self._state:
                # A third: one extension may fail, and another still comes in time.
                if self._state.wait_for(lambda: self._closing, self._timeout_seconds / 3):
                    return
                claims = list(self._claims.items())
            for task_uuid, claim_no in claims:
                try:
                    kept = self._link.call(
                        functions.extend_finalization_claim(task_uuid, self._processor, claim_no, self._timeout_seconds)
                    )
                except GaveUp:
                    return
                except (psycopg.Error, TaskerError):
                    logger.warning("the claim on task %s could not be extended", task_uuid, exc_info=True)
                    continue
                if not kept:
                    # The hook goes on; finalizing will be refused.
                    logger.warning("the claim on task %s is lost to another finalizer", task_uuid)
                    self.done(task_uuid)
