"""Plain Celery settings: of the program's own workers, and of Tasker when it sends steps to them."""

from __future__ import annotations

import os

broker_url = os.environ.get("SALES_BROKER_URL", "redis://127.0.0.1:6379/0")
# Chords need one. A workflow does not, but reads there why a task failed.
result_backend = os.environ.get("SALES_RESULT_BACKEND", broker_url)

# Several programs may share a Redis.
broker_transport_options = {"global_keyprefix": os.environ.get("SALES_KEY_PREFIX", "sales:")}
result_backend_transport_options = broker_transport_options

task_default_queue = "sales"
broker_connection_retry_on_startup = True
