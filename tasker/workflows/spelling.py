"""The one spelling of a document: what can be written in several ways is brought into one before it is checked.

``limit`` becomes ``max_attempts``, ``dependencies`` becomes ``depends_on``, delays in seconds become milliseconds, a
plain event name becomes an object, and an optional field that is null becomes a field left out. Messages still name
each field as its author wrote it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from tasker.workflows.model import (
    EventDeclaration,
    HandlerOverride,
    HandlerSpec,
    Lifecycle,
    Part,
    RetryPolicy,
    StepOverride,
    StepTemplate,
    SystemDependencies,
    TaskHandlerOverride,
    TaskHandlerSpec,
    WorkflowTemplate,
)
from tasker.workflows.problems import Problem
from tasker.workflows.yaml_source import Path_, Source

_SECONDS = {"initial_delay": "backoff_base_ms", "max_delay": "max_backoff_ms"}

_STEP_PARTS: dict[str, type[Part]] = {"retry": RetryPolicy, "lifecycle": Lifecycle}
_PARTS: dict[type[Part], dict[str, type[Part]]] = {
    WorkflowTemplate: {
        "task_handler": TaskHandlerSpec,
        "system_dependencies": SystemDependencies,
        "lifecycle": Lifecycle,
    },
    StepTemplate: {**_STEP_PARTS, "handler": HandlerSpec},
    StepOverride: {**_STEP_PARTS, "handler": HandlerOverride},
}


def one_spelling(source: Source) -> tuple[Source, list[Problem]]:
    """``source`` with every field under its one name.

    Returns:
        the document, which still knows where everything stands, and the fields that were given twice.
    """
    speller = _Speller(source)
    value = speller.document(source.value)
    return dataclasses.replace(source, value=value, redirects=speller.redirects), speller.problems


class _Speller:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.redirects: dict[Path_, Path_] = dict(source.redirects)
        self.problems: list[Problem] = []

    def document(self, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        result = self._part(raw, WorkflowTemplate, ())
        self._events(result, "domain_events", ())
        self._steps(result, StepTemplate, ())
        environments = result.get("environments")
        if isinstance(environments, dict):
            result["environments"] = {
                name: self._environment(overrides, ("environments", name)) for name, overrides in environments.items()
            }
        return result

    def _environment(self, raw: Any, path: Path_) -> Any:
        if raw is None:
            return {}
        if not isinstance(raw, dict):
            return raw
        result = {key: value for key, value in raw.items() if value is not None or key not in ("task_handler", "steps")}
        if isinstance(result.get("task_handler"), dict):
            result["task_handler"] = self._part(result["task_handler"], TaskHandlerOverride, (*path, "task_handler"))
        self._steps(result, StepOverride, path)
        return result

    def _steps(self, parent: dict[str, Any], model: type[Part], path: Path_) -> None:
        steps = parent.get("steps")
        if isinstance(steps, list):
            parent["steps"] = [
                self._step(step, model, (*path, "steps", index)) if isinstance(step, dict) else step
                for index, step in enumerate(steps)
            ]

    def _step(self, raw: dict[str, Any], model: type[Part], path: Path_) -> dict[str, Any]:
        step = self._part(raw, model, path)
        if isinstance(step.get("retry"), dict):
            self._delays(step["retry"], (*path, "retry"))
        self._events(step, "publishes_events", path)
        return step

    def _part(self, raw: dict[str, Any], model: type[Part], path: Path_) -> dict[str, Any]:
        """One mapping of the format: renamed, without nulls, and its own parts likewise."""
        known = set(model.model_fields) | set(model.renamed) | (set(_SECONDS) if model is RetryPolicy else set())
        result: dict[str, Any] = {}
        for key, value in raw.items():
            if value is None and key in known and key not in model.null_says_something:
                continue
            name = model.renamed.get(key, key)
            if name != key:
                if raw.get(name) is not None:
                    self._twice(key, name, (*path, key))
                    continue
                self.redirects[(*path, name)] = (*path, key)
            result[name] = value
        for key, part in _PARTS.get(model, {}).items():
            if isinstance(result.get(key), dict):
                result[key] = self._part(result[key], part, (*path, key))
        return result

    def _delays(self, retry: dict[str, Any], path: Path_) -> None:
        for key, name in _SECONDS.items():
            if key not in retry:
                continue
            seconds = retry.pop(key)
            if name in retry:
                self._twice(key, name, (*path, key))
            elif isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
                self.problems.append(self.source.problem(f"must be a number of seconds, not {seconds!r}", (*path, key)))
            else:
                self.redirects[(*path, name)] = (*path, key)
                retry[name] = round(seconds * 1000)

    def _events(self, parent: dict[str, Any], key: str, path: Path_) -> None:
        events = parent.get(key)
        if isinstance(events, list):
            parent[key] = [
                self._part(event, EventDeclaration, (*path, key, index)) if isinstance(event, dict)
                else {"name": event} if isinstance(event, str) else event
                for index, event in enumerate(events)
            ]  # fmt: skip

    def _twice(self, key: str, name: str, path: Path_) -> None:
        self.problems.append(
            self.source.problem(f"{key!r} and {name!r} mean the same: give one of them", path),
        )
