"""Work in a forked child."""

from __future__ import annotations

import os
from collections.abc import Callable


def in_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked child; its exit code: 1 when ``work`` raised something."""
    child = os.fork()
    if child == 0:  # pragma: no cover - the child's coverage is not measured
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
