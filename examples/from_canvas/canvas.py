"""The report as a chord: all regions at once, then the sum, then two channels at once.

python -m from_canvas.canvas 2026-03-01
"""

from __future__ import annotations

import sys
from typing import Any

from celery import chain, group
from celery.canvas import Signature

from from_canvas.tasks import add_up, app, publish, sales_of

REGIONS = ("north", "east", "south", "west")


def daily_report(day: Any) -> Signature:
    """The canvas of one day's report. The group that a task follows becomes the header of a chord."""
    return chain(
        group(sales_of.s(day, region) for region in REGIONS),
        add_up.s(),
        group(publish.s("mail"), publish.s("web")),
    )


def main(day: str) -> None:
    """Let Celery run it, and show what was published."""
    for line in daily_report(day).apply_async().get(timeout=60):
        print(line)
    app.close()


if __name__ == "__main__":
    main(sys.argv[1])
