"""Pages that are made from the code say what the code says."""

from __future__ import annotations

from collections.abc import Callable

import click
import pytest

import tasker
from docs.generate import PAGES, REFERENCE
from docs.pages import client, commands, python_api, states
from tasker import testing
from tasker.cli import main
from tasker.client.tasker import Tasker
from tasker.config.keys import all_keys
from tasker.database.records import TASK_STATES

REMEDY = "is not what the code makes of it: run `make docs` and commit what it changes"


@pytest.mark.parametrize(("name", "make"), PAGES.items(), ids=list(PAGES))
def test_a_page_is_what_the_code_makes_of_it(name: str, make: Callable[[], str]) -> None:
    assert (REFERENCE / name).read_text(encoding="utf-8") == make(), f"docs/reference/{name} {REMEDY}"


def test_every_setting_is_there_with_its_variable() -> None:
    text = (REFERENCE / "settings.md").read_text(encoding="utf-8")
    names = {key.name.rpartition(".")[2] for key in all_keys().values()}
    assert [name for name in sorted(names) if f"| `{name}`<br>" not in text] == []
    assert "`TASKER_ORCHESTRATION__SPARE_SLOTS`" in text


def test_every_command_is_there() -> None:
    text = commands.make()
    root = click.Context(main, info_name="tasker")
    for name in main.list_commands(root):
        command = main.get_command(root, name)
        inside = list(command.commands) if isinstance(command, click.Group) else [""]
        for each in inside:
            assert f"\n## {f'tasker {name} {each}'.strip()}\n" in text


def test_every_method_of_the_client_is_described() -> None:
    public = {name for name in dir(Tasker) if not name.startswith("_")}
    assert public - client.documented() == {"database"}


def test_everything_public_is_described() -> None:
    assert set(tasker.__all__) <= python_api.documented()
    text = (REFERENCE / "python_api.md").read_text(encoding="utf-8")
    assert [name for name in testing.__all__ if f"### {name}\n" not in text] == []


def test_every_state_and_transition_is_drawn_and_explained() -> None:
    rows = states.transitions("allowed_task_transitions")
    assert {state for source, target, _ in rows for state in (source, target)} == {"new", *TASK_STATES}
    text = (REFERENCE / "states.md").read_text(encoding="utf-8")
    for function in ("allowed_task_transitions", "allowed_step_transitions"):
        for source, target, meaning in states.transitions(function):
            assert f"| {'' if source == 'new' else f'`{source}`'} | `{target}` | {meaning} |" in text
