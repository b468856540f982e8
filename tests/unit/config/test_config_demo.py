from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.config

DEMO = Path(__file__).parents[3] / "examples" / "config_demo.py"


def run(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("TASKER_", "DATABASE_URL"))
    }
    return subprocess.run(
        [sys.executable, str(DEMO), *arguments],
        cwd=cwd,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_demo_prints_what_each_environment_resolves_to(tmp_path: Path) -> None:
    result = run(cwd=tmp_path, DATABASE_URL="postgresql://joe:sesame@db/shop")
    assert (result.returncode, result.stderr) == (0, "")
    header, *rows = (line.split() for line in result.stdout.splitlines())
    assert header == ["key", "development", "production", "test"]
    assert ["database.resource_validation", '"best_effort"', '"fail_fast"', '"degraded"'] in rows
    assert "settings/environments/production/database.toml" in result.stdout
    assert "sesame" not in result.stdout


def test_the_demo_shows_a_users_own_settings_over_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "settings/environments/staging").mkdir(parents=True)
    (tmp_path / "settings/environments/staging/mine.toml").write_text("[pgmq]\nmax_receive_count = 7\n")
    told: dict[str, Any] = json.loads(run("--json", cwd=tmp_path).stdout)
    row = next(row for row in told["resolved"] if row["key"] == "pgmq.max_receive_count")
    assert row == {"key": "pgmq.max_receive_count", "development": 5, "production": 5, "staging": 7, "test": 5}
    assert {
        "key": "pgmq.max_receive_count",
        "environment": "staging",
        "value": 7,
        "from": "settings/environments/staging/mine.toml:2",
        "instead of": ["5"],
    } in told["differences"]


def test_the_demo_fails_with_all_problems_when_the_settings_are_wrong(tmp_path: Path) -> None:
    result = run(cwd=tmp_path, TASKER_PGMQ__MAX_BATCH_SIZE="0")
    assert result.returncode == 1
    assert "pgmq.max_batch_size = 0: must be a whole number from 1 to 10,000" in result.stderr
    assert "Traceback" not in result.stderr
