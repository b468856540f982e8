"""``python -m tasker.hosting.child PARENT MODULE:FUNCTION …``: a program that ends, in order, when its parent dies."""

from __future__ import annotations

import os
import pkgutil
import signal
import sys
import threading
import time
import warnings

_LOOK_SECONDS = 1.0


def end_with(parent: int) -> None:
    """Have this process sent SIGTERM when its parent is gone, however it went.

    Args:
        parent: the parent's process id; were it asked for here, it could be gone already.
    """
    if sys.platform == "linux":
        from billiard.util import set_pdeathsig

        set_pdeathsig(signal.SIGTERM)
    else:
        threading.Thread(target=_watch, args=(parent,), name="tasker-parent-watch", daemon=True).start()
    if os.getppid() != parent:
        sys.exit("the process that started this one is gone")


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run the program that is named, with what follows as its arguments."""
    parent, entry = int(sys.argv.pop(1)), sys.argv.pop(1)
    end_with(parent)
    # Said once by whoever runs Celery by hand; a program of several workers need not repeat it for each.
    warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")
    sys.exit(pkgutil.resolve_name(entry)())


if __name__ == "__main__":
    main()
