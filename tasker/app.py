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
from types import ModuleType
from typing import Any

from celery import Celery
from celery.utils.imports import cwd_in_path

from tasker.config.manager import ConfigManager
from tasker.config.settings import Settings
from tasker.core import OrchestrationCore
from tasker.database.embedded import EmbeddedServer
from tasker.errors import ConfigurationError
from tasker.hosting.beat import beat_schedule
from tasker.hosting.delegation import CelerySteps, StepApp
from tasker.hosting.hosting import install
from tasker.hosting.roles import ORCHESTRATION_QUEUE
from tasker.messaging.transport.address import broker_url_of
from tasker.messaging.transport.registration import register

CONFIG_MODULE_VARIABLE = "CELERY_CONFIG_MODULE"
CONFIG_MODULE = "celeryconfig"

REDIS_SCHEMES = ("redis:", "rediss:", "sentinel:")
REDIS_OPTIONS = {
    # Redis gives messages back that nobody acknowledged in time, those of all who share these keys. With the app's own
    # keys, a time that differs from the app's would hand out its running tasks a second time.
    "unacked_key": "tasker_unacked",
    "unacked_index_key": "tasker_unacked_index",
    "unacked_mutex_key": "tasker_unacked_mutex",
    "visibility_timeout": 60,
    "socket_connect_timeout": 4,
}
"""Transport options of the app for steps on Redis, unless its own settings say otherwise."""

register()


class TaskerApp(Celery):
    """A Celery app that is configured by Tasker's settings."""

    def on_configure(self) -> None:
        """Called once, when the configuration is first needed. What is wrong with it is raised where it is needed."""
        # One plain mapping, which can also be sent to pool processes that are spawned.
        self.config_from_object(_configuration())


app = TaskerApp("tasker")
"""The application; also ``tasker.celery``."""


def _step_app() -> StepApp:
    """The app that steps which are Celery tasks are sent through: this one, unless the settings name another."""
    settings = ConfigManager.load().engine.celery_steps
    if not settings.is_other_app:
        return StepApp(app, terminate=settings.terminate)
    other = Celery("tasker.steps", set_as_current=False)
    user = {} if settings.config_module is None else _module_settings(settings.config_module)
    other.conf.update(user)
    broker = settings.broker_url or user.get("broker_url")
    if not broker:
        raise ConfigurationError(
            f"the module {settings.config_module} says no broker_url",
            hint="set engine.celery_steps.broker_url",
            field="engine.celery_steps.config_module",
        )
    # Celery's environment variables are about the app of this process, and would win over broker_url.
    other.conf.update(broker_url=broker, broker_read_url=broker, broker_write_url=broker)
    other.backend_cls = settings.result_backend or user.get("result_backend") or "disabled://"
    if str(broker).startswith(REDIS_SCHEMES):
        options = {**REDIS_OPTIONS, **other.conf.broker_transport_options}
        other.conf.update(broker_transport_options=options)
    return StepApp(other, settings.callback_queue, terminate=settings.terminate, is_other=True)


steps = CelerySteps(_step_app)


def _make_core() -> OrchestrationCore:
    return OrchestrationCore.from_settings(send=steps.send, revoke=steps.revoke)


hosting = install(app, _make_core, steps)


def _configuration() -> dict[str, Any]:
    settings, user = ConfigManager.load(), _users_settings()
    ours: dict[str, Any] = {
        "broker_connection_retry_on_startup": True,
        # Executors need no broker, so a worker does not give up when there is none for an hour.
        "broker_connection_max_retries": None,
        # What a worker fetched and has no slot for, no other worker can take.
        "worker_prefetch_multiplier": 1,
    }
    if "broker_url" not in user and not os.environ.get("CELERY_BROKER_URL"):
        ours["broker_url"] = broker_url_of(_database_url(settings))
        ours["broker_transport_options"] = {
            "answer_timeout": settings.database.answer_timeout_seconds,
            **user.pop("broker_transport_options", {}),
        }
    # The user's entries stand beside ours; one of the same name wins.
    entries = {**beat_schedule(settings), **user.pop("beat_schedule", {})}
    # Before the user's, whose patterns may fit everything.
    routes = user.pop("task_routes", None) or ()
    own_routes = {"tasker.*": {"queue": ORCHESTRATION_QUEUE}}
    routes = [own_routes, *(routes if isinstance(routes, list | tuple) else [routes])]
    return {**ours, **user, "beat_schedule": entries, "task_routes": routes}


def _users_settings() -> dict[str, Any]:
    """What the user's module says; nothing if there is none. An error inside it is theirs to see."""
    name = os.environ.get(CONFIG_MODULE_VARIABLE)
    with cwd_in_path():
        if name is None and importlib.util.find_spec(CONFIG_MODULE) is None:
            return {}
    return _module_settings(name or CONFIG_MODULE)


def _module_settings(name: str) -> dict[str, Any]:
    """The Celery settings that a module says."""
    with cwd_in_path():
        module = importlib.import_module(name)
    return {
        key: value
        for key, value in vars(module).items()
        # Not settings, but what they are made of: imported modules, and features of the language.
        if not (key.startswith("_") or isinstance(value, ModuleType) or type(value).__module__ == "__future__")
    }


def _database_url(settings: Settings) -> str:
    """Where the database is: the embedded one is started if no other is named, and shared by all who do the same."""
    return settings.database.url or EmbeddedServer.start().url
