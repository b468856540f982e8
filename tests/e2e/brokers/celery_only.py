"""Runs a program that is given as text, where no Tasker can be imported unless ``--with-tasker`` is given.

    python celery_only.py [--with-tasker] BROKER_URL RESULT_BACKEND FILE

It has the two addresses as ``broker_url`` and ``result_backend``; its variable ``task_uuid`` is printed at the end.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

*options, broker_url, result_backend, file = sys.argv[1:]
if "--with-tasker" in options:
    import tasker  # noqa: F401  (makes its broker's URLs known)
else:
    sys.modules["tasker"] = None  # type: ignore[assignment]  # as if it were not installed
names: dict[str, Any] = {"broker_url": broker_url, "result_backend": result_backend, "__name__": "program"}
exec(compile(Path(file).read_text(encoding="utf-8"), file, "exec"), names)
print(names["task_uuid"])
