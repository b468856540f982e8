"""Functions that were declared as steps or hooks in this process, and how other processes find them again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasker.workflows.signatures import HandlerSignature

if TYPE_CHECKING:
    from tasker.workflows.declaration import Workflow

_ATTRIBUTE = "__tasker_steps__"

# Bounded by the program's text: declaring the same function again replaces it.
_declared: dict[str, Any] = {}


@dataclass(frozen=True)
class StepDeclaration:
    """That a function or class is a step of a workflow.

    Attributes:
        workflow: the workflow.
        step_name: name of the step.
        signature: what its handler takes and returns.
    """

    workflow: Workflow
    step_name: str
    signature: HandlerSignature


def callable_path(target: Callable[..., Any]) -> str:
    """The name under which a worker imports ``target``: ``package.module:name``.

    Raises:
        ValueError: it has none, as a lambda or a partial.
    """
    name = getattr(target, "__qualname__", None)
    if not isinstance(name, str) or "<lambda>" in name:
        raise ValueError("has no name that a worker could import it by: declare it by def")
    return f"{module_name(target.__module__)}:{name}"


def module_name(module: str) -> str:
    """The name by which another process imports ``module``; a script runs as ``__main__`` only in its own."""
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else module


def remember(path: str, target: Callable[..., Any]) -> None:
    """Make ``target`` known in this process under ``path``, also where it cannot be imported (inside a function)."""
    _declared[path] = target


def recall(path: str) -> Any | None:
    """What was declared last under ``path`` in this process."""
    return _declared.get(path)


def mark_step(target: Callable[..., Any], declaration: StepDeclaration) -> None:
    """Note on ``target`` itself that it is a step; one function may be a step of several workflows."""
    setattr(target, _ATTRIBUTE, [*vars(target).get(_ATTRIBUTE, []), declaration])


def declarations_of(target: Callable[..., Any]) -> tuple[StepDeclaration, ...]:
    """The workflows of which ``target`` is a step."""
    return tuple(getattr(target, _ATTRIBUTE, ()))
