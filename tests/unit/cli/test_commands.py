from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import click
import psycopg
import pytest
from click.testing import CliRunner
from sqlalchemy.exc import ProgrammingError

import tasker.cli
from tasker.cli import main
from tasker.cli.commands import Command, Group, command, group
from tasker.errors import NotFound


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


def every_command(found: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, found
    if isinstance(found, click.Group):
        context = click.Context(found)
        for inner in found.list_commands(context):
            command = found.get_command(context, inner)
            assert command is not None
            yield from every_command(command, f"{name} {inner}")


def test_every_command_has_json_and_says_what_it_does() -> None:
    for name, found in every_command(main, "tasker"):
        if not isinstance(found, click.Group) or found is main:
            assert any("--json" in parameter.opts for parameter in found.params), name
        assert found.help, name


def test_help_names_all_commands(runner: CliRunner) -> None:
    result = runner.invoke(main, ["--help"])
    assert result.exit_code == 0
    assert "config" in result.stdout
    assert "output" not in main.list_commands(click.Context(main))


def test_calling_it_wrongly_is_2(runner: CliRunner) -> None:
    for arguments in (["nothing"], ["config", "nothing"], ["config", "explain"], ["--nothing"]):
        assert runner.invoke(main, arguments).exit_code == 2, arguments


def test_the_version_is_the_packages(runner: CliRunner) -> None:
    from importlib.metadata import version

    assert runner.invoke(main, ["--version"]).stdout.strip() == f"tasker, version {version('tasker-celery')}"


# -- errors


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """``tasker fail`` raises what the test puts here."""
    errors: list[Exception] = []

    @command()
    def fail() -> None:
        """Fail."""
        raise errors[0]

    monkeypatch.setattr(type(main), "get_command", lambda self, context, name: {"fail": fail}.get(name))
    return errors


def test_an_error_is_shown_with_what_to_do_and_without_a_traceback(failing: list[Exception], runner: CliRunner) -> None:
    failing.append(NotFound("no task abc", hint="`tasker task list` shows all"))
    result = runner.invoke(main, ["fail"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "Error: no task abc\nHint: `tasker task list` shows all\n"


@pytest.mark.parametrize("arguments", [["fail", "--json"], ["--json", "fail"]])
def test_an_error_is_json_where_json_was_asked_for(
    arguments: list[str], failing: list[Exception], runner: CliRunner
) -> None:
    failing.append(NotFound("no task abc", field="task_uuid"))
    result = runner.invoke(main, arguments)
    assert result.exit_code == 1
    assert json.loads(result.stderr) == {"error": {"type": "NotFound", "message": "no task abc", "field": "task_uuid"}}


def test_a_database_that_does_not_answer_is_an_error_people_can_act_on(
    failing: list[Exception], runner: CliRunner
) -> None:
    failing.append(psycopg.OperationalError("connection refused\n\tIs the server running?"))
    result = runner.invoke(main, ["fail"])
    assert result.exit_code == 1
    assert "the database does not answer as it should: connection refused Is the server running?" in result.stderr
    assert "tasker config explain database.url" in result.stderr


@pytest.mark.parametrize("wrap", [lambda error: error, lambda error: ProgrammingError("SELECT 1", {}, error)])
def test_a_login_without_a_right_is_an_error_people_can_act_on(
    wrap: Callable[[Exception], Exception], failing: list[Exception], runner: CliRunner
) -> None:
    failing.append(wrap(psycopg.errors.InsufficientPrivilege("permission denied\nLINE 1: SELECT")))
    result = runner.invoke(main, ["fail"])
    assert result.exit_code == 1
    assert "may not do this: permission denied LINE 1: SELECT" in result.stderr
    assert "grant it tasker_client, tasker_worker or tasker_operator" in result.stderr


def test_a_mistake_in_the_program_keeps_its_traceback(failing: list[Exception], runner: CliRunner) -> None:
    failing.append(ZeroDivisionError("oops"))
    result = runner.invoke(main, ["fail"])
    assert isinstance(result.exception, ZeroDivisionError)


# -- groups


def test_commands_of_a_group_have_json_however_deep() -> None:
    @group()
    def outer() -> None:
        """Outer."""

    @outer.group()
    def inner() -> None:
        """Inner."""

    @inner.command()
    def leaf() -> None:
        """Leaf."""

    assert isinstance(inner, Group)
    assert isinstance(leaf, Command)


def test_the_environment_is_named_for_the_command_and_what_it_starts_and_restored(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKER_ENV", "test")
    result = runner.invoke(main, ["-e", "production", "config", "show", "database.resource_validation", "--json"])
    assert json.loads(result.stdout)[0]["value"] == "fail_fast"
    assert os.environ["TASKER_ENV"] == "test"


def test_the_command_line_imports_no_module_of_a_command_it_does_not_run() -> None:
    import subprocess
    import sys

    code = "import sys, tasker.cli; sys.exit(any(m in sys.modules for m in ('dynaconf', 'celery', 'psycopg', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
    assert tasker.cli.main is main


def test_naming_the_command_imports_no_more_than_click_since_every_celery_program_does_it() -> None:
    source = (
        "import sys, tasker.cli; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'celery', 'psycopg', 'pydantic', 'sqlalchemy', 'dynaconf', 'rich', 'orjson'}))"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert main.name == "tasker"  # as `celery` calls it
