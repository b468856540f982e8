"""Commands that ask workers: called with nonsense, without a broker, and when some do not answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery.app.control import Control
from click.testing import CliRunner

from tasker.cli import main
from tasker.hosting import remote

UNREACHABLE = {"CELERY_BROKER_URL": "redis://me:secret@127.0.0.1:1/0"}


def run(*arguments: str, **env: str) -> Any:
    return CliRunner().invoke(main, arguments, env=env, catch_exceptions=True)


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1", "soon"])
def test_a_time_that_never_ends_is_no_timeout(seconds: str) -> None:
    result = run("worker", "executors", "--timeout", seconds)
    assert result.exit_code == 2
    assert "--timeout" in result.stderr


@pytest.mark.parametrize("app", ["", "nonsense", "json", "os:path", "os:nothing", "a:b:c"])
def test_what_is_no_celery_application_is_said_to_be_none(app: str) -> None:
    result = run("drain", "--all", "--app", app)
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert f"there is no Celery application {app!r}" in result.stderr


APP = "tests.unit.cli.celery_app"


def test_a_broker_that_is_away_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(111, "Connection refused")

    monkeypatch.setattr(Control, "broadcast", refused)
    result = run("worker", "stats", "--app", APP, **UNREACHABLE)
    assert result.exit_code == 1
    assert "the broker redis://me:**@127.0.0.1:1/0 does not answer as it should" in result.stderr
    assert "database" not in result.stderr.split("Hint:")[0]


def test_a_broker_of_an_unknown_kind_is_no_traceback() -> None:
    result = run("worker", "stats", "--app", APP, CELERY_BROKER_URL="bogus://localhost")
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert "No such transport: bogus" in result.stderr


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (("worker", "executors"), []),
        (("worker", "stats"), {"error": "it is no host"}),
        (("drain",), {"ok": "drains its executors"}),
    ],
)
def test_what_some_workers_say_is_shown_before_others_are_missed(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], answer: Any
) -> None:
    asked: list[Any] = []

    def broadcast(_control: Control, _command: str, **options: Any) -> Any:
        asked.append(options["destination"])
        return [{"a@test": answer}]

    monkeypatch.setattr(Control, "broadcast", broadcast)
    result = run(*command, "a@test", "b@test", "a@test", "--json", "--app", APP, **UNREACHABLE)
    assert asked == [["a@test", "b@test"]]  # one who is named twice answers once
    assert result.exit_code == 1
    assert isinstance(json.loads(result.stdout), list)
    assert "nothing was heard of b@test" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", [("worker", "executors"), ("worker", "stats"), ("drain", "--all")])
def test_a_worker_of_an_app_without_tasker_is_said_to_be_one(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    def broadcast(_control: Control, name: str, **_: Any) -> Any:
        return [{"a@test": {"error": repr(KeyError(name))}}]  # as kombu says of a command that nobody registered

    monkeypatch.setattr(Control, "broadcast", broadcast)
    result = run(*command, "--app", APP, **UNREACHABLE)
    assert "worker a@test cannot host executors: its app knows nothing of Tasker" in result.output
    assert "KeyError" not in result.output


def test_the_argument_of_draining_is_checked_on_celerys_command_line_too() -> None:
    from celery.worker.control import Panel

    ((_, typed),) = Panel.meta[remote.DRAIN].args
    assert typed("resume") is True
    with pytest.raises(Exception, match="say resume, or nothing") as refused:
        typed("nonsense")
    assert getattr(refused.value, "exit_code", None) == 2  # shown without a traceback
