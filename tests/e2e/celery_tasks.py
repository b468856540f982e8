"""Plain Celery tasks, as an existing code base has them; workers of these tests get them by ``-I``."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from celery import shared_task


@shared_task
def charge_card(amount: int, who: str) -> dict[str, str]:
    if amount <= 0:
        raise ValueError(f"cannot charge {amount}")
    return {"receipt": f"{who}:{amount}"}


@shared_task
def echo(value: int) -> int:
    return value


@shared_task
def wait_for_file(path: str) -> None:
    deadline = time.monotonic() + 60
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.01)


@shared_task
def die_once(folder: str) -> str:
    mark = Path(folder, "died")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "lived"
