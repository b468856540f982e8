from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tasker.cli.output import Output, cell

ROWS = [
    {"task": "process_order", "state": "complete", "steps": 4, "extra": [1, 2]},
    {"task": "[bold]x", "state": "error", "steps": None, "extra": []},
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Call it in the test itself: pytest puts its own standard output in place between set-up and test."""

    def replace() -> Terminal:
        stream = Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        return stream

    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return replace


def test_piped_tables_are_plain_columns(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=False).table(ROWS, {"task": "task", "state": "is", "steps": "steps"})
    assert capsys.readouterr().out == (
        "task           is        steps\n"
        "process_order  complete  4\n"
        "[bold]x        error     -\n"
    )  # fmt: skip


def test_json_tables_have_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).table(ROWS, ["task"])
    assert json.loads(capsys.readouterr().out) == ROWS


def test_tables_on_a_terminal_show_values_as_they_are(terminal: Callable[[], Terminal]) -> None:
    screen = terminal()
    output = Output(as_json=False)
    assert output.is_terminal
    output.table(ROWS, ["task", "state", "steps"], title="Tasks")
    shown = screen.getvalue()
    assert "Tasks" in shown
    assert "[bold]x" in shown
    assert "\x1b[32mcomplete" in shown


def test_nothing_is_said_beside_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=False).table([], ["task"], empty="No tasks.")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "No tasks.\n")
    Output(as_json=True).table([], ["task"], empty="No tasks.")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("[]\n", "")


def test_a_record_is_a_line_per_key(terminal: Callable[[], Terminal]) -> None:
    screen = terminal()
    record = {"task_uuid": UUID(int=1), "tags": ["a", "b"]}
    Output(as_json=False).record(record)
    assert "a, b" in screen.getvalue()


def test_a_record_is_plain_when_piped_and_an_object_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=False).record({"a": 1, "longer": None})
    assert capsys.readouterr().out == "a       1\nlonger  -\n"
    Output(as_json=True).record({"a": UUID(int=1)})
    assert json.loads(capsys.readouterr().out) == {"a": str(UUID(int=1))}


def test_text_and_events(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        output = Output(as_json=as_json)
        output.text("SELECT 1")
        output.text("two done", done=2)
        output.event("step a complete", {"step": "a"})
        output.note("beside")
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "SELECT 1",
        "two done",
        "step a complete",
        '{"text":"SELECT 1"}',
        '{"done":2}',
        '{"step":"a"}',
    ]
    assert captured.err == "beside\n"


def test_a_live_table_prints_each_new_state_once_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    with Output(as_json=False).live(["state"]) as view:
        for state in ("pending", "pending", "complete"):
            view.update([{"state": state}])
    assert capsys.readouterr().out == "state\npending\nstate\ncomplete\n"
    with Output(as_json=True).live(["state"]) as view:
        for state in ("pending", "pending", "complete"):
            view.update([{"state": state}])
    assert capsys.readouterr().out == '[{"state":"pending"}]\n[{"state":"complete"}]\n'


def test_a_live_table_is_redrawn_on_a_terminal(terminal: Callable[[], Terminal]) -> None:
    screen = terminal()
    with Output(as_json=False).live(["state"], title="Now") as view:
        view.update([{"state": "pending"}])
        view.update([{"state": "complete"}], caption="done")
    assert "done" in screen.getvalue()
    assert "\x1b[" in screen.getvalue()


def test_json_on_a_terminal_is_indented(terminal: Callable[[], Terminal]) -> None:
    screen = terminal()
    Output(as_json=True).record({"a": 1})
    assert screen.getvalue() == '{\n  "a": 1\n}\n'


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (True, "yes"),
        (False, "no"),
        (1234.5, "1,234.5"),
        (2.0, "2"),
        (timedelta(seconds=61.4), "0:01:01"),
        (["a", None], "a, -"),
        ([], "-"),
        ({"a": 1}, '{"a":1}'),
        ("x", "x"),
    ],
)
def test_values_in_tables_are_written_for_people(value: object, shown: str) -> None:
    assert cell(value) == shown


def test_times_in_tables_are_local() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert cell(at) == at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
