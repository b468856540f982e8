from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tasker.cli import main

pytestmark = pytest.mark.config

URL = "postgresql://joe:sesame@db/shop"


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("TASKER_ENV", "TASKER_SETTINGS_DIR", "DATABASE_URL"):
        monkeypatch.delenv(variable, raising=False)


def tasker(*arguments: str, **variables: str) -> Result:
    return CliRunner().invoke(main, ["config", *arguments], env=variables)


def test_show_lists_every_setting_with_its_origin_and_no_password() -> None:
    result = tasker("show", "--json", DATABASE_URL=URL)
    rows = {row["key"]: row for row in json.loads(result.stdout)}
    assert rows["database.url"] == {
        "key": "database.url",
        "value": "postgresql://joe:********@db/shop",
        "origin": "environment variable DATABASE_URL",
    }
    assert rows["executor_pools.task_claimer.batch_size"]["value"] == 50
    plain = tasker("show", DATABASE_URL=URL).stdout
    assert '"postgresql://joe:********@db/shop"' in plain
    assert "sesame" not in plain


def test_show_takes_a_section_or_a_key() -> None:
    assert [line.split()[0] for line in tasker("show", "system.backoff").stdout.splitlines()[1:]] == [
        "system.backoff.base_seconds",
        "system.backoff.multiplier",
        "system.backoff.max_seconds",
        "system.backoff.jitter_enabled",
        "system.backoff.jitter_max_percentage",
    ]
    assert len(tasker("show", "pgmq.max_batch_size").stdout.splitlines()) == 2
    wrong = tasker("show", "pgmq.batch_size")
    assert wrong.exit_code == 1
    assert "there is no setting pgmq.batch_size" in wrong.stderr
    assert "did you mean pgmq.max_batch_size?" in wrong.stderr


def test_validate_says_which_environments_are_valid() -> None:
    result = tasker("validate", "--all", "--json")
    assert result.exit_code == 0
    assert [(row["environment"], row["valid"]) for row in json.loads(result.stdout)] == [
        ("development", True),
        ("production", True),
        ("test", True),
    ]


def test_validate_lists_all_that_is_wrong_and_fails() -> None:
    wrong = {"TASKER_PGMQ__MAX_BATCH_SIZE": "0", "TASKER_PGMQ__NOTIFY": "true"}
    result = tasker("validate", **wrong)
    assert result.exit_code == 1
    assert "2 settings are wrong in environment development:" in result.stderr
    assert "pgmq.max_batch_size = 0: must be a whole number from 1 to 10,000" in result.stderr
    assert "did you mean pgmq.notify_enabled?" in result.stderr
    as_json = tasker("validate", "--json", **wrong)
    assert as_json.exit_code == 1
    assert len(json.loads(as_json.stdout)[0]["problems"]) == 2


def test_explain_tells_meaning_values_and_places(tmp_path: Path) -> None:
    (tmp_path / "settings" / "base").mkdir(parents=True)
    (tmp_path / "settings" / "base" / "mine.toml").write_text("[pgmq]\nmax_receive_count = 7\n")
    result = tasker("explain", "pgmq.max_receive_count", "--json", TASKER_PGMQ__MAX_RECEIVE_COUNT="8")
    told = json.loads(result.stdout)
    assert told["value"] == "8"
    assert told["origin"] == "environment variable TASKER_PGMQ__MAX_RECEIVE_COUNT"
    assert told["overrides"][0] == "7 from settings/base/mine.toml:2"
    assert told["overrides"][1].startswith("5 from ")
    assert told["allowed"] == "a whole number from 1 to 1,000"
    assert told["variable"] == "TASKER_PGMQ__MAX_RECEIVE_COUNT"
    assert "dead letters" in told["meaning"]


def test_explain_masks_the_password_in_every_layer() -> None:
    result = tasker("explain", "database.url", DATABASE_URL=URL, TASKER_DATABASE__URL=URL + "2")
    assert result.exit_code == 0
    assert "sesame" not in result.stdout


def test_explain_of_an_unknown_key_fails_with_the_nearest() -> None:
    result = tasker("explain", "pgmq.notify")
    assert result.exit_code == 1
    assert "did you mean pgmq.notify_enabled?" in result.stderr
