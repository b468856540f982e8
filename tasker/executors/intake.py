"""From the answer of a claiming call to steps that can run."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Mapping
from typing import Any

import orjson

from tasker.executors.held import HeldStep
from tasker.executors.incarnation import Incarnation
from tasker.executors.templates import KnownTemplates

Chain = tuple[int, float]
"""Local continuations so far, and when the chain's first step was claimed."""


class Intake:
    """Builds held steps. ``_lock`` owns the known templates: claims and completions come from different threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._templates = KnownTemplates()

    def known_templates(self) -> list[int]:
        """For the request: versions that need not be described again."""
        with self._lock:
            return self._templates.named()

    def take(
        self,
        answer: Mapping[str, Any],
        incarnation: Incarnation,
        call_no: int,
        chains: Mapping[str, Chain] | None = None,
    ) -> list[HeldStep]:
        """The steps of ``answer``.

        Args:
            answer: of ``claim_steps`` or ``complete_steps``.
            incarnation: whose call it was.
            call_no: the call.
            chains: by task, what the steps continue; without it each begins a chain.
        """
        claimed = answer["steps"]
        if not claimed:
            return []
        now = time.monotonic()
        fresh = (0, now)
        tasks, results = answer["tasks"], answer["results"]
        probes = answer.get("probes") or {}
        seen: set[str] = set()
        steps = []
        with self._lock:
            if answer["templates"]:
                self._templates.learn(answer["templates"])
            for step in claimed:
                task_uuid = step["task_uuid"]
                task, parents = tasks[task_uuid], results.get(task_uuid) or {}
                if task_uuid in seen:
                    # Handlers may change what they are given; their neighbours of the same task must not see it.
                    task, parents = _copy(task), _copy(parents)
                seen.add(task_uuid)
                steps.append(
                    HeldStep(
                        step,
                        incarnation=incarnation,
                        call_no=call_no,
                        template=self._templates.step(step["template"], step["position"]),
                        task=task,
                        results=parents,
                        now=now,
                        chain=fresh if chains is None else chains.get(task_uuid, fresh),
                        probe=probes.get(step["step_uuid"]),
                    )
                )
        return steps


def _copy(value: Any) -> Any:
    try:
        return orjson.loads(orjson.dumps(value))
    except TypeError:  # from another language: a number beyond 64 bits, or deeper than orjson writes
        return copy.deepcopy(value)
