"""What an executor knows of workflow versions: sent by the database once, kept, and prepared for running."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any

from tasker.handlers.resolved import ResolvedHandler
from tasker.hooks.completion import events_of

MAX_NAMED = 256
"""Versions named in each claim, so that they are not sent again."""

MAX_KEPT = 1024
"""Versions kept. Many more than are named: an answer to a call made a moment ago must still find what it named."""


class StepTemplate:
    """One step of one version, as the hot path needs it."""

    __slots__ = (
        "delegated", "events", "expected_ms", "handler", "key", "label", "max_attempts", "name", "namespace", "parents",
        "resolved", "result_schema", "retryable", "settings", "system_dependency", "task_name", "timeout_seconds",
        "version",
    )  # fmt: skip

    def __init__(self, named_task_id: int, task: Mapping[str, Any], step: Mapping[str, Any]) -> None:
        self.key = (named_task_id, int(step["position"]))
        self.namespace: str = task["namespace"]
        self.task_name: str = task["name"]
        self.version: str = task["version"]
        self.name: str = step["name"]
        # ``namespace.task.step``, for logs and monitors.
        self.label = f"{self.namespace}.{self.task_name}.{self.name}"
        self.retryable: bool = step["retryable"]
        self.max_attempts: int = step["max_attempts"]
        self.timeout_seconds: float | None = step["timeout_seconds"]
        self.delegated: bool = step["delegated"]
        self.expected_ms: float | None = step["expected_ms"]
        self.system_dependency: str | None = step.get("system_dependency")
        names = [other["name"] for other in task["steps"]]
        # (position as the key of a JSON object, name): how results by position become results by name.
        self.parents: tuple[tuple[str, str], ...] = tuple(
            (str(position), names[position]) for position in step["depends_on"]
        )
        self.handler: Mapping[str, Any] = step["handler"]
        self.settings: Mapping[str, Any] = MappingProxyType(step["handler"].get("initialization") or {})
        self.events = events_of(step.get("publishes_events"))
        self.result_schema: dict[str, Any] | None = step["result_schema"]
        # The handler, once the step has run here.
        self.resolved: ResolvedHandler | None = None


class KnownTemplates:
    """The versions used lately, by recency. Guarded by the lock of whoever takes in claimed steps."""

    def __init__(self, max_named: int = MAX_NAMED, max_kept: int = MAX_KEPT) -> None:
        self._max_named = max_named
        self._max_kept = max_kept
        self._templates: OrderedDict[int, tuple[StepTemplate, ...]] = OrderedDict()

    def named(self) -> list[int]:
        """The ids of those used last, for ``known_templates``."""
        return list(islice(reversed(self._templates), self._max_named))

    def learn(self, described: Mapping[str, Any]) -> None:
        """Take in the ``templates`` of an answer."""
        for key, task in described.items():
            named_task_id = int(key)
            self._templates[named_task_id] = tuple(StepTemplate(named_task_id, task, step) for step in task["steps"])
            self._templates.move_to_end(named_task_id)
        while len(self._templates) > self._max_kept:
            self._templates.popitem(last=False)

    def step(self, named_task_id: int, position: int) -> StepTemplate:
        """The step at ``position``; it is known, since the answer that names it describes its version if need be."""
        self._templates.move_to_end(named_task_id)
        return self._templates[named_task_id][position]
