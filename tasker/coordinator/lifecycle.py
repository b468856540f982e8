"""The lifecycles of workflows, enforced: a part of the coordinator's tick looks for tasks and steps that are stuck."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tasker.database import functions
from tasker.database.calls import Call

logger = logging.getLogger(__name__)

PAGE = 1000
"""Open tasks that one transaction looks at."""

LIMIT = 100
"""Tasks that one transaction acts on."""

SECONDS = 5.0
"""How long a tick goes on; the next one continues where it ended."""

Ask = Callable[[Call[dict[str, Any]]], dict[str, Any]]


@dataclass
class StuckReport:
    """What was done about tasks that were stuck.

    Attributes:
        given_up: steps that were ended in ``error``, each with a dead letter.
        paused: tasks that were paused for somebody to look at.
        finished: tasks that ended by it.
        skipped: tasks that somebody had locked; the next round sees them.
    """

    given_up: int = 0
    paused: int = 0
    finished: int = 0
    skipped: int = 0


def act_on_stuck_tasks(
    ask: Ask, notify: Callable[[list[str], list[str]], None], *, seconds: float = SECONDS
) -> StuckReport:
    """Go through a part of the open tasks of workflows that have a lifecycle.

    Args:
        ask: makes a call in a transaction of its own.
        notify: wakes queues and channels.
        seconds: stop after the page during which so long has passed.
    """
    report = StuckReport()
    ends = time.monotonic() + seconds
    while True:
        found = ask(functions.act_on_stuck_tasks({"page": PAGE, "limit": LIMIT}))
        report.given_up += found["given_up"]
        report.paused += found["paused"]
        report.finished += len(found["finished_tasks"])
        report.skipped += found["skipped"]
        notify(found["queues"], found["notify"])
        for task in found["tasks"]:
            logger.warning(
                "Task %s is stuck (%s): %s.",
                task["task_uuid"],
                task["reason"],
                "paused" if task["action"] == "paused" else f"{task['steps']} steps given up, see tasker dlq list",
            )
        if not found["more"] or time.monotonic() >= ends:
            return report
