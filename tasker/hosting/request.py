"""How a worker's main process treats the requests of executor tasks."""

from __future__ import annotations

import weakref
from typing import Any

from celery.worker.request import Request

from tasker.hosting.host import find_host
from tasker.hosting.pools import PREFORK
from tasker.hosting.slot import Occupant
from tasker.hosting.tally import Tally, describe


class ExecutorRequest(Request):
    """The request of ``tasker.run_executors``, which acknowledges late when local, early when it came from a queue.

    Local ones have nothing to acknowledge: the late acknowledgement is how their slot learns that they ended. Those
    from a queue run for minutes and must not be redelivered; whoever sent them counts executors and sends again.
    """

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        self.tally: Tally | None = None
        if (occupant := self.occupant) is not None:
            self.tally = occupant.slot.tally
        elif (host := find_host(self.hostname)) is not None and (tally := host.board.allot()) is not None:
            self.tally = tally
            tally.assign(self.id)
            # However it ends, nobody keeps the request then.
            weakref.finalize(self, tally.free).atexit = False

    @property
    def occupant(self) -> Occupant | None:
        """What it is to its slot; ``None`` if it came from a queue."""
        return self._on_ack if isinstance(self._on_ack, Occupant) else None

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """A pool process or thread runs it now."""
        super().on_accepted(pid, time_accepted)
        if self.occupant is None:
            self.acknowledge()

    def info(self, safe: bool = False) -> dict[str, Any]:
        """What ``inspect active`` shows, and what it runs."""
        said = {**dict(zip(("kind", "queues"), self.args, strict=False)), **self.kwargs}
        executor = describe(str(said.get("kind", "")), said.get("queues", ()), self.tally)
        return {**super().info(safe=safe), "executor": executor}

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """It raised, or its process died."""
        if (occupant := self.occupant) is not None:
            occupant.failed = True
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """Hurry it at a cold shutdown; leave it alone when the broker's connection is lost: it needs no broker."""
        host = find_host(self.hostname)
        if host is None:
            super().cancel(pool, signal=signal, emit_retry=emit_retry)
        elif host.stop.is_set():
            host.cold.value = 1
            # Threads cannot be signalled. Celery raises then, in its signal handler: on a solo worker that is in the
            # middle of the step that runs.
            if host.pool == PREFORK:
                super().cancel(pool, signal=signal, emit_retry=emit_retry)
