"""The Celery application: ``celery -A tasker worker``. The only module that configures Celery.

Its configuration is read when it is first used, from three places, later ones winning:

1. defaults derived from Tasker's settings: the broker is the database itself, beat sends the coordinator's ticks;
2. ``celeryconfig.py``, plain Celery settings, if there is one in the working directory or on ``sys.path``
   (``CELERY_CONFIG_MODULE`` names another module);
3. ``CELERY_BROKER_URL``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Any

from celery import Celery
from celery.utils.imports import cwd_in_path

from tasker.config.manager import ConfigManager
from tasker.config.settings import Settings
from tasker.core import OrchestrationCore
from tasker.database.embedded import EmbeddedServer
from tasker.hosting.beat import beat_schedule
from tasker.hosting.delegation import CelerySteps
from tasker.hosting.hosting import install
from tasker.hosting.roles import ORCHESTRATION_QUEUE
from tasker.messaging.transport.address import broker_url_of
from tasker.messaging.transport.registration import register

CONFIG_MODULE_VARIABLE = "CELERY_CONFIG_MODULE"
CONFIG_MODULE = "celeryconfig"

register()

app = Celery("tasker")
"""The application; also ``tasker.celery``."""

steps = CelerySteps(app)


def _make_core() -> OrchestrationCore:
    return OrchestrationCore.from_settings(send=steps.send, revoke=steps.revoke)


hosting = install(app, _make_core)


def _config_module() -> str | None:
    """The module of the user's Celery settings, imported; ``None`` if there is none. Its errors are theirs to see."""
    name = os.environ.get(CONFIG_MODULE_VARIABLE)
    with cwd_in_path():
        if name is None and importlib.util.find_spec(CONFIG_MODULE) is None:
            return None
        return importlib.import_module(name or CONFIG_MODULE).__name__


def _configure(**_: Any) -> None:
    name = _config_module()
    if name is not None:
        app.config_from_object(name)  # by name, which can be pickled, as spawned pool processes need


def _defaults() -> dict[str, Any]:
    settings = ConfigManager.load()
    defaults: dict[str, Any] = {
        "task_routes": {"tasker.*": {"queue": ORCHESTRATION_QUEUE}},
        "beat_schedule": beat_schedule(settings),
        "broker_connection_retry_on_startup": True,
        # What a worker fetched and has no slot for, no other worker can take.
        "worker_prefetch_multiplier": 1,
    }
    if not (os.environ.get("CELERY_BROKER_URL") or hasattr(sys.modules.get(_config_module() or ""), "broker_url")):
        defaults["broker_url"] = broker_url_of(_database_url(settings))
    return defaults


def _database_url(settings: Settings) -> str:
    """Where the database is: the embedded one is started if no other is named, and shared by all who do the same."""
    return settings.database.url or EmbeddedServer.start().url


app.on_configure.connect(_configure, weak=False)
app.add_defaults(_defaults)
