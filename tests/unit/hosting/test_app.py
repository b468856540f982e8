"""How the Celery app is configured: defaults from the settings, the user's module over them, the environment last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

SHOW = """
import json
from tasker import celery as app
print(json.dumps({
    "broker_url": app.conf.broker_url,
    "beat": {name: [entry["task"], entry["schedule"], entry["options"].get("expires")]
             for name, entry in app.conf.beat_schedule.items()},
    "prefetch": app.conf.worker_prefetch_multiplier,
    "queues": [app.amqp.router.route({}, name)["queue"].name for name in ("tasker.create", "shop.mail", "other")],
    "tasks": sorted(name for name in app.tasks if name.startswith("tasker.")),
}))
"""


SHOW_STEPS = """
import json
from tasker.app import steps
target = steps.target
with target.app.connection_for_write() as write, target.app.connection_for_read() as read:
    print(json.dumps({
        "is_other": target.is_other,
        "write": write.as_uri(include_password=True),
        "read": read.as_uri(include_password=True),
        "options": target.app.conf.broker_transport_options,
        "backend": target.app.backend.as_uri(include_password=True),
        "queue": target.callback_queue,
        "terminate": target.terminate,
        "default_queue": target.app.conf.task_default_queue,
    }))
"""


def configuration(folder: Path, user: str | None = None, show: str = SHOW, **env: str) -> dict[str, Any]:
    """What the app has in a process of its own, with ``user`` as the user's settings."""
    if user is not None:
        (folder / "celeryconfig.py").write_text(user)
    inherited: Mapping[str, str] = {
        name: value for name, value in os.environ.items() if not name.startswith(("TASKER_", "CELERY_", "DATABASE_URL"))
    }
    # The checkout's own celeryconfig.py must not count, so it is reached by the installed package alone.
    source = f"import sys; sys.path.append({str(ROOT)!r}); sys.path.insert(0, '')\n{show}"
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=folder,
        env={**inherited, "DATABASE_URL": "postgresql://me:secret@db.example/shop", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_database_is_the_broker_unless_something_else_is_said(tmp_path: Path) -> None:
    found = configuration(tmp_path, "")
    assert found["broker_url"] == "tasker-pgmq://me:secret@db.example/shop"
    assert found["prefetch"] == 1
    assert found["queues"] == ["orchestration", "celery", "celery"]
    assert found["tasks"] == [
        "tasker.coordinator_tick",
        "tasker.create",
        "tasker.drain_executor",
        "tasker.run_executors",
        "tasker.step_failed",
        "tasker.step_succeeded",
    ]


def test_the_users_settings_win_over_the_defaults_and_the_environment_over_both(tmp_path: Path) -> None:
    user = 'broker_url = "redis://redis.example/3"\nworker_prefetch_multiplier = 4\n'
    found = configuration(tmp_path, user)
    assert (found["broker_url"], found["prefetch"]) == ("redis://redis.example/3", 4)
    found = configuration(tmp_path, user, CELERY_BROKER_URL="amqp://rabbit.example//")
    assert found["broker_url"] == "amqp://rabbit.example//"


def test_tasks_of_taskers_own_go_to_their_queue_whatever_routes_the_user_has(tmp_path: Path) -> None:
    found = configuration(tmp_path, 'task_routes = {"shop.*": {"queue": "shop"}, "*": {"queue": "rest"}}\n')
    assert found["queues"] == ["orchestration", "shop", "rest"]
    found = configuration(tmp_path, 'task_routes = [{"shop.*": {"queue": "shop"}}, {"*": {"queue": "rest"}}]\n')
    assert found["queues"] == ["orchestration", "shop", "rest"]


def test_the_users_own_beat_entries_stand_beside_the_coordinators_ticks(tmp_path: Path) -> None:
    user = 'beat_schedule = {"mine": {"task": "shop.report", "schedule": 60.0, "options": {}}}\n'
    found = configuration(tmp_path, user)
    assert found["beat"] == {
        "mine": ["shop.report", 60.0, None],
        "tasker-tick": ["tasker.coordinator_tick", 10.0, 10.0],
    }


def test_periodic_hosting_adds_a_drain_of_each_orchestration_kind_that_expires_within_its_period(
    tmp_path: Path,
) -> None:
    found = configuration(tmp_path, "", TASKER_ORCHESTRATION__HOSTING="periodic")
    assert found["beat"].pop("tasker-tick") == ["tasker.coordinator_tick", 10.0, 10.0]
    assert {name.removeprefix("tasker-drain-") for name in found["beat"]} == {
        "task_request_processor",
        "task_claimer",
        "step_enqueuer",
        "step_result_processor",
        "task_finalizer",
    }
    assert set(map(tuple, found["beat"].values())) == {("tasker.drain_executor", 1.0, 1.0)}


def test_another_module_may_hold_the_users_settings(tmp_path: Path) -> None:
    (tmp_path / "shop_celery.py").write_text('broker_url = "redis://redis.example/9"\n')
    found = configuration(tmp_path, "raise RuntimeError('not this one')\n", CELERY_CONFIG_MODULE="shop_celery")
    assert found["broker_url"] == "redis://redis.example/9"


def test_an_error_in_the_users_settings_is_shown_and_not_swallowed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no_such_name"):
        configuration(tmp_path, "worker_prefetch_multiplier = no_such_name\n")


def test_steps_that_are_celery_tasks_go_through_the_workers_own_app_unless_another_is_named(tmp_path: Path) -> None:
    found = configuration(tmp_path, 'broker_url = "redis://redis.example/3"\n', SHOW_STEPS)
    assert found["is_other"] is False
    assert (found["write"], found["queue"]) == ("redis://redis.example:6379/3", "orchestration")


def test_the_broker_of_the_steps_is_not_that_of_the_workers(tmp_path: Path) -> None:
    found = configuration(
        tmp_path,
        'broker_url = "redis://redis.example/3"\n',
        SHOW_STEPS,
        TASKER_ENGINE__CELERY_STEPS__BROKER_URL="redis://shop.example/5",
        TASKER_ENGINE__CELERY_STEPS__RESULT_BACKEND="redis://shop.example/6",
        TASKER_ENGINE__CELERY_STEPS__CALLBACK_QUEUE="outcomes",
        TASKER_ENGINE__CELERY_STEPS__TERMINATE="true",
        # About the process's own app.
        CELERY_BROKER_URL="redis://other.example/1",
        CELERY_RESULT_BACKEND="redis://other.example/2",
    )
    assert (found["write"], found["read"]) == ("redis://shop.example:6379/5",) * 2
    assert found["backend"] == "redis://shop.example/6"
    assert (found["is_other"], found["queue"], found["terminate"]) == (True, "outcomes", True)
    # Messages of the shop's own workers that are not acknowledged yet are none of Tasker's.
    assert found["options"]["unacked_index_key"] == "tasker_unacked_index"


def test_a_module_of_celery_settings_says_how_steps_are_sent(tmp_path: Path) -> None:
    (tmp_path / "shop_settings.py").write_text(
        'broker_url = "amqp://shop.example//"\n'
        'result_backend = "redis://shop.example/6"\n'
        'task_default_queue = "shop"\n'
        'broker_transport_options = {"confirm_publish": True}\n'
    )
    module = {"TASKER_ENGINE__CELERY_STEPS__CONFIG_MODULE": "shop_settings"}
    found = configuration(tmp_path, "", SHOW_STEPS, **module)
    assert found["write"] == "amqp://guest:guest@shop.example:5672//"
    assert (found["backend"], found["default_queue"]) == ("redis://shop.example/6", "shop")
    assert found["options"] == {"confirm_publish": True}
    found = configuration(
        tmp_path, "", SHOW_STEPS, **module, TASKER_ENGINE__CELERY_STEPS__BROKER_URL="redis://shop.example/5"
    )
    assert found["write"] == "redis://shop.example:6379/5"


def test_a_module_without_a_broker_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shop_settings.py").write_text('task_default_queue = "shop"\n')
    with pytest.raises(AssertionError, match=r"the module shop_settings says no broker_url \(set engine.celery_steps"):
        configuration(tmp_path, "", SHOW_STEPS, TASKER_ENGINE__CELERY_STEPS__CONFIG_MODULE="shop_settings")
