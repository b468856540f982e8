"""Turns messages of ``task_requests_queue`` into tasks, whoever sent them and in whatever language."""

from __future__ import annotations

import logging
from typing import Any

import psycopg

from tasker.database import functions, work
from tasker.database.work import Message, Unreadable
from tasker.errors import (
    Backpressure,
    ContextInvalid,
    ExecutorLost,
    PayloadTooLarge,
    TaskerError,
    UnknownTemplate,
    ValueNotStorable,
)
from tasker.executors.executor import ExecutorKind
from tasker.executors.link import is_transient, sqlstate_of
from tasker.executors.orchestration import OrchestrationExecutor
from tasker.executors.submission import is_bad_value
from tasker.messaging.queues import TASK_REQUESTS
from tasker.workflows.registry import TemplateRegistry

logger = logging.getLogger(__name__)


class TaskRequestProcessor(OrchestrationExecutor):
    """Reads requests, checks their contexts, and creates their tasks; what is wrong goes to dead letters.

    Args:
        templates: know the input schemas.
        visibility_timeout_seconds: after this, a message that was read is seen by others again.
        max_receive_count: a message that was read more often, always without success, is rejected.
        max_message_bytes: a larger message is rejected.
        shared: as for every orchestration executor.
    """

    def __init__(
        self,
        *,
        templates: TemplateRegistry,
        visibility_timeout_seconds: float,
        max_receive_count: int,
        max_message_bytes: int,
        **shared: Any,
    ) -> None:
        super().__init__(ExecutorKind.TASK_REQUEST_PROCESSOR, (TASK_REQUESTS,), **shared)
        self._templates = templates
        self._visibility_timeout_seconds = visibility_timeout_seconds
        self._max_receive_count = max_receive_count
        self._max_message_bytes = max_message_bytes

    def drain(self, limit: int) -> int:
        """Process at most ``limit`` messages; how many there were."""
        self.start()
        messages = self.take(
            work.read_messages(
                TASK_REQUESTS, limit, self._visibility_timeout_seconds, max_bytes=self._max_message_bytes
            )
        )
        if not messages:
            return 0
        entries = [self._entry(message) for message in messages]
        self._process(entries)
        return len(messages)

    def _entry(self, message: Message) -> dict[str, Any]:
        """The message as ``process_task_requests`` takes it: checked, or rejected with the reason."""
        if isinstance(message.body, Unreadable):
            return _rejected(message.msg_id, message.body.reason, message.body.message)
        if message.read_ct > self._max_receive_count:
            return _rejected(message.msg_id, "max_receive_count", f"read {message.read_ct} times without success")
        request = message.body
        if not isinstance(request, dict):
            return _rejected(message.msg_id, "invalid_request", "a request is a JSON object")
        namespace, name, version = (request.get(key) for key in ("namespace", "name", "version"))
        if not isinstance(namespace, str) or not isinstance(name, str) or not isinstance(version, str | None):
            # The SQL core says which field it is, as it does for every other field.
            return {"msg_id": message.msg_id, "request": request}
        try:
            template = self._templates.get(namespace, name, version)
            template.check_context(request.get("context") or {})
        except (UnknownTemplate, ContextInvalid) as error:
            return _rejected(message.msg_id, _reason(error), str(error))
        # Pinned to the version that it was checked against.
        checked = {**request, "version": template.record.version, "context_checked": True}
        return {"msg_id": message.msg_id, "request": checked}

    def _process(self, entries: list[dict[str, Any]]) -> None:
        """Create and reject; a request that the SQL core refuses is found by halving, and harms no other."""
        try:
            answer = self.call(functions.process_task_requests({"messages": entries}))
        except ExecutorLost:
            raise
        except (TaskerError, psycopg.Error) as error:
            if not isinstance(error, TaskerError) and (is_transient(error) or not is_bad_value(error)):
                raise
            if len(entries) == 1:
                msg_id = entries[0]["msg_id"]
                if isinstance(error, Backpressure):
                    # Not the request's fault: it stays on its queue, and has not been read.
                    self._process([{"msg_id": msg_id, "again_seconds": error.retry_after_seconds}])
                    self.counters.add(put_off=1)
                    return
                logger.info("request %s is refused: %s", msg_id, error)
                self._process([_rejected(msg_id, _reason(error), str(error))])
                return
            middle = len(entries) // 2
            self._process(entries[:middle])
            self._process(entries[middle:])
            return
        self.tell(answer)
        self.counters.add(taken=len(entries), created=len(answer["created"]), rejected=answer["rejected"])


def _rejected(msg_id: int, reason: str, message: str) -> dict[str, Any]:
    return {"msg_id": msg_id, "rejected": {"reason": reason, "message": message}}


def _reason(error: Exception) -> str:
    match error:
        case UnknownTemplate():
            return "unknown_template"
        case ContextInvalid():
            return "invalid_context"
        case PayloadTooLarge():
            return "payload_too_large"
        case ValueNotStorable():
            return "not_storable"
        case TaskerError():
            return "invalid_request"
        case _:
            return f"sqlstate_{sqlstate_of(error)}"
