"""Where in a program's code a declaration stands."""

from __future__ import annotations

import inspect
from types import FrameType
from typing import Any

from tasker.workflows.yaml_source import Place


def callers_place(frame: FrameType | None) -> tuple[Place | None, str | None]:
    """Where the function with this frame was called: the line, and the file."""
    caller = None if frame is None else frame.f_back
    return (None, None) if caller is None else (Place(caller.f_lineno, ()), caller.f_code.co_filename)


def place_of(target: Any) -> tuple[Place | None, str | None]:
    """Where a function or class is defined: the line, and the file."""
    code = getattr(inspect.unwrap(target), "__code__", None)
    if code is not None:
        return Place(code.co_firstlineno, ()), code.co_filename
    try:
        return Place(inspect.getsourcelines(target)[1], ()), inspect.getsourcefile(target)
    except (OSError, TypeError):
        return None, None


def callers_names(frame: FrameType | None, file: str) -> dict[str, Any]:
    """Local names of the code that declares, for annotations of steps that are declared inside a function.

    Args:
        frame: the innermost frame.
        file: the module whose own frames are passed over.
    """
    while frame is not None and frame.f_code.co_filename == file:
        frame = frame.f_back
    if frame is None or frame.f_locals is frame.f_globals:
        return {}
    return dict(frame.f_locals)
