"""An existing Celery program: it has its own broker and result backend, and knows nothing of Tasker.

Its settings are those of ``foreign_settings``, a module that the tests write.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery, chord
from celery.exceptions import Ignore, Reject

app = Celery("shop")
app.config_from_object("foreign_settings")


class PermanentError(Exception):
    """The program's own; it only has the name."""


@app.task
def charge(amount: int, *, card: str) -> dict[str, Any]:
    if amount < 0:
        raise PermanentError(f"cannot charge {amount}")
    return {"receipt": f"{card}:{amount}", "knows_tasker": "tasker.database" in sys.modules}


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def add_up(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def seen(*args: Any) -> list[Any]:
    return list(args)


@app.task
def unsendable() -> object:
    return object()


@app.task(bind=True, default_retry_delay=0.05)
def third_time_lucky(self: Any) -> int:
    if self.request.retries < 2:
        raise self.retry()
    return int(self.request.retries)


@app.task
def second_call_lucky(folder: str) -> str:
    first = Path(folder, "called")
    if not first.exists():
        first.touch()
        raise ValueError("not yet")
    return "lucky"


@app.task(bind=True)
def becomes_a_chord(self: Any, numbers: list[int]) -> None:
    raise self.replace(chord([add.s(number, 1) for number in numbers], add_up.s()))


@app.task
def ignored() -> None:
    raise Ignore


@app.task(acks_late=True)
def rejected() -> None:
    raise Reject("not mine", requeue=False)


@app.task(bind=True)
def first_call_waits(self: Any, folder: str) -> str:
    """The first attempt says that it began, and waits for a file; the others do not."""
    attempt = str(self.request.id).rpartition(":")[2]
    Path(folder, f"pid{attempt}").write_text(str(os.getpid()))
    deadline = time.monotonic() + 60
    while attempt == "1" and not Path(folder, "gate").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return f"attempt {attempt}"
