"""The reference of states: pictures and tables of the transitions that the SQL core allows, from its own list."""

from __future__ import annotations

import re
from pathlib import Path

from docs.pages.markdown import code, page, table
from tasker.config.resources import resource_dir

INTRO = """
The state of a task and of each of its steps is a column, changed by the SQL functions alone. What may follow what is
one list in one place, `tasker.allowed_task_transitions()` and `tasker.allowed_step_transitions()`; from it are made
the constraints on the audit tables, and this page. Each change is a row of `tasker.task_transitions` or
`tasker.workflow_step_transitions`, which `tasker task show UUID --history` prints.
"""

TASKS = """
A task is *finished* in `complete`, `error`, `cancelled` and `resolved_manually`: `finished_at` is set then, and
`wait()` returns. It is *finalized* (`finalized_at`) once its completion hooks have run, at the same moment where it
has none. A task in `error` can be taken up again; its `finish_no` rises then.
"""

STEPS = """
*Live* steps are `enqueued`, `in_progress` and `waiting_for_retry`. A finished task has none; blocked steps of a task in
`error` stay `pending`. `complete`, `resolved_manually` and `skipped` satisfy the steps that depend on it. A step whose
task is paused may be `enqueued` without a message on its queue; resuming sends one.
"""

REASONS = """
`tasker task why UUID` and `Tasker.why()` answer with one of these reasons, with a detail and what to do.
"""

_ROW = re.compile(r"\(\s*'([a-z_]+)',\s*'([a-z_]+)',\s*'((?:[^']|'')+)'\s*\)")


def make() -> str:
    """The page."""
    return page(
        "States",
        INTRO,
        "## Tasks",
        TASKS,
        _picture("allowed_task_transitions"),
        _table("allowed_task_transitions"),
        "## Steps",
        STEPS,
        _picture("allowed_step_transitions"),
        _table("allowed_step_transitions"),
        "## Why is it not running?",
        REASONS,
        _reasons(),
    )


def transitions(function: str) -> list[tuple[str, str, str]]:
    """What the function returns: from, to, and why."""
    found = _ROW.findall(_text(function))
    return [(source, target, meaning.replace("''", "'")) for source, target, meaning in found]


def _text(function: str) -> str:
    path: Path = resource_dir("migrations") / "functions" / f"{function}.sql"
    return path.read_text(encoding="utf-8")


def _picture(function: str) -> str:
    rows = transitions(function)
    sources = {source for source, _, _ in rows}
    lines = []
    if "new" not in sources:
        lines.append("    [*] --> pending")
    for source, target, _ in rows:
        lines.append(f"    {'[*]' if source == 'new' else source} --> {target}")
    ends = sorted({target for _, target, _ in rows} - sources)
    lines += [f"    {end} --> [*]" for end in ends]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


def _table(function: str) -> str:
    rows = transitions(function)
    return table(
        ["from", "to", "when"],
        [["" if source == "new" else code(source), code(target), meaning] for source, target, meaning in rows],
    )


def _reasons() -> str:
    """The closed lists that the header of explain_task gives."""
    header = " ".join(re.findall(r"^-- (.*)$", _text("explain_task"), re.MULTILINE))
    found = re.search(r"with what to do: (.*?); and for steps: (.*?)\.", header)
    assert found is not None
    rows = [["a task", *found.group(1).split(", ")], ["a step that has not ended", *found.group(2).split(", ")]]
    return table(["of", "reasons"], [[row[0], ", ".join(map(code, row[1:]))] for row in rows])
