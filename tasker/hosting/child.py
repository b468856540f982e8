"""``python -m tasker.hosting.child …``: ``celery …`` as a child that ends, in order, when its parent dies."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

_LOOK_SECONDS = 1.0


def end_with_parent() -> None:
    """Have this process sent SIGTERM when its parent is gone, however it went."""
    parent = os.getppid()
    if sys.platform == "linux":
        from billiard.util import set_pdeathsig

        set_pdeathsig(signal.SIGTERM)
        if os.getppid() != parent:  # it died before it could have been noticed
            os.kill(os.getpid(), signal.SIGTERM)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="tasker-parent-watch", daemon=True).start()


def main() -> None:
    """Run Celery with this process's arguments."""
    end_with_parent()
    from celery.bin.celery import main as celery

    sys.exit(celery())


if __name__ == "__main__":
    main()
