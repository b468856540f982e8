"""The same report as a workflow, made of the very canvas.

tasker up                                  # with the two settings that README.md names
python -m from_canvas.workflow 2026-03-01
"""

from __future__ import annotations

import sys

from from_canvas.canvas import daily_report
from tasker import OrchestrationCore, Retry, Tasker, from_canvas

report = from_canvas(
    # The day comes with each run, so its place is kept by a reference.
    daily_report({"$context": "/day"}),
    "sales",
    "daily_report",
    version="1.0.0",
    retry=Retry(max_attempts=5, base_seconds=1),
    timeout_seconds=60,
    input_schema={"type": "object", "required": ["day"], "properties": {"day": {"type": "string", "format": "date"}}},
)


def main(day: str) -> None:
    """Register it, run it, and show what was published. A day is reported once, however often this is called."""
    with OrchestrationCore.from_settings() as core:
        core.templates.register(report)
        with Tasker(core.database) as tasker:
            task = tasker.create("sales", "daily_report", {"day": day}, identity_key=day)
            task.wait(timeout=60)
            for step in ("publish", "publish_2"):
                print(task.results[step])


if __name__ == "__main__":
    main(sys.argv[1])
