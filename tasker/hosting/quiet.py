"""Less to read in a solo worker's log, where an executor task begins and ends every second."""

from __future__ import annotations

import logging

from tasker.hosting.resident import RUN_EXECUTORS

_LOGGERS = ("celery.worker.strategy", "celery.app.trace")


class _WithoutExecutors(logging.Filter):
    """Drops Celery's remarks that an executor task was received or succeeded; never warnings or errors."""

    def filter(self, record: logging.LogRecord) -> bool:
        data = getattr(record, "data", None)
        return record.levelno > logging.INFO or not isinstance(data, dict) or data.get("name") != RUN_EXECUTORS


def quieten_solo() -> None:
    """Leave those remarks out in this process."""
    for name in _LOGGERS:
        found = logging.getLogger(name)
        if not any(isinstance(each, _WithoutExecutors) for each in found.filters):
            found.addFilter(_WithoutExecutors())
