"""What an environment changes: its overrides laid over the document, before that is checked.

Steps are found by their names; ``ALL`` stands for every step and comes first, so that a step's own override rules.
Mappings merge deeply, lists and scalars replace, null leaves what is there. Merging twice changes nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from tasker.workflows.problems import Problem, did_you_mean
from tasker.workflows.yaml_source import Path_, Source

ALL_STEPS = "ALL"


def with_overrides(source: Source, environment: str) -> tuple[Source, list[Problem]]:
    """The document as it is in ``environment``.

    Args:
        source: a document in its one spelling, whose own parts are valid.
        environment: name of an environment; one that the document does not mention changes nothing.

    Returns:
        the merged document, which knows where each value was written, and overrides that cannot be applied.
    """
    document: dict[str, Any] = source.value
    overrides = (document.get("environments") or {}).get(environment)
    if not overrides:
        return source, []
    merger = _Merger(dict(source.redirects))
    base = ("environments", environment)
    result = dict(document)
    if "task_handler" in overrides and result.get("task_handler") is not None:
        result["task_handler"] = merger.merge(
            result["task_handler"], overrides["task_handler"], ("task_handler",), (*base, "task_handler")
        )
    steps = [dict(step) for step in document["steps"]]
    index_of = {step["name"]: index for index, step in enumerate(steps)}
    problems: list[Problem] = []
    seen: set[str] = set()
    listed = list(enumerate(overrides.get("steps") or []))
    for number, override in sorted(listed, key=lambda entry: entry[1]["name"] != ALL_STEPS):
        name, path = override["name"], (*base, "steps", number)
        changes = {key: value for key, value in override.items() if key != "name"}
        if name in seen:
            problems.append(source.problem("is overridden twice in this environment", (*path, "name")))
        elif name != ALL_STEPS and name not in index_of:
            hint = did_you_mean(name, index_of)
            problems.append(source.problem(f"no step has this name{hint}", (*path, "name")))
        seen.add(name)
        for index in range(len(steps)) if name == ALL_STEPS else [index_of[name]] if name in index_of else []:
            steps[index] = merger.merge(steps[index], changes, ("steps", index), path)
    result["steps"] = steps
    return dataclasses.replace(source, value=result, redirects=merger.redirects), problems


class _Merger:
    """Merges, and notes for each value that was replaced where the new one stands."""

    def __init__(self, redirects: dict[Path_, Path_]) -> None:
        self.redirects = redirects

    def merge(self, base: dict[str, Any], changes: dict[str, Any], path: Path_, origin: Path_) -> dict[str, Any]:
        result = dict(base)
        for key, value in changes.items():
            if value is None:
                continue
            here, there = (*path, key), (*origin, key)
            if isinstance(value, dict) and isinstance(result.get(key), dict):
                result[key] = self.merge(result[key], value, here, there)
            else:
                result[key] = _without_nulls(value)
                self.redirects[here] = there
        return result


def _without_nulls(value: Any) -> Any:
    """A mapping that an override adds: its nulls leave a base value that is not there, so they add nothing."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value
