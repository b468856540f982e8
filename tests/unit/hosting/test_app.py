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
    "tasks": sorted(name for name in app.tasks if name.startswith("tasker.")),
}))
"""


def configuration(folder: Path, user: str | None = None, **env: str) -> dict[str, Any]:
    """What the app has in a process of its own, with ``user`` as the user's settings."""
    if user is not None:
        (folder / "celeryconfig.py").write_text(user)
    inherited: Mapping[str, str] = {
        name: value for name, value in os.environ.items() if not name.startswith(("TASKER_", "CELERY_", "DATABASE_URL"))
    }
    # The checkout's own celeryconfig.py must not count, so it is reached by the installed package alone.
    source = f"import sys; sys.path.append({str(ROOT)!r}); sys.path.insert(0, '')\n{SHOW}"
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
