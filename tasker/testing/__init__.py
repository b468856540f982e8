"""What users and we test with; the fixtures are in ``tasker.testing.plugin``.

``run_until_idle(core)`` runs all there is to run, in this process; ``Clock`` moves the engine's time;
``broken_rules(core)`` says what is not legal in its database.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasker.testing.clock import Clock
    from tasker.testing.idle import run_until_idle
    from tasker.testing.legality import broken_rules

__all__ = ["Clock", "broken_rules", "run_until_idle"]

# Lazily: pytest imports this package wherever Tasker is installed, be it used or not.
_HOMES = {
    "Clock": "tasker.testing.clock",
    "broken_rules": "tasker.testing.legality",
    "run_until_idle": "tasker.testing.idle",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
