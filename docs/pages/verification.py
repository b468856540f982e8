"""The reference of ``tasker db verify``: its rules, and for each what breaks it in the tests."""

from __future__ import annotations

from docs.pages.markdown import code, from_docstring, page, table
from tasker.database.verification import Check, history, schema, steps, tasks, work
from tests.integration.verification.corruptions import ALL

INTRO = """
`tasker db verify` proves from the tables alone that what happened in a database is legal: it checks the rules below and
lists every row that breaks one, with what is wrong and what to do. How to run it, and when:
[Operate](../how-to/operate.md#prove-that-the-history-is-legal).

A rule that does not hold is a *violation*, except where the engine puts it right by itself: then it is *pending*, and
the table says who repairs it.

Each rule is proven: a test takes a database in which tasks and steps are in every state there is, in which all rules
hold; does what the last column says, by hand; and sees this rule broken, and no other.
"""

HEAD = ("rule", "must hold", "what to do", "proven by")

GROUPS: tuple[tuple[str, tuple[Check, ...]], ...] = (
    ("Tasks", tasks.CHECKS),
    ("Steps, timers, dead letters", steps.CHECKS),
    ("Receipts, executors, messages", work.CHECKS),
    ("History", history.CHECKS),
    ("Schema", schema.CHECKS),
)

HISTORY = """
Every change of state left a row in an audit table. Steps' rows are put in order by their fences, tasks' by `finish_no`;
the time decides only within one of those, so a server's clock that was set back is told apart from a wrong order.

Where the oldest partitions of an audit table were dropped, the history begins with the first one that is left. A task
that was created earlier may have no beginning, or no history at all; what is left of it must still be connected and end
in the task's state of now. Delete history by dropping partitions, never by rows: a gap in the middle is a violation.
"""

LIMITS = """
Rules see what is committed, and judge form, not sense: that a step ran once does not say that its handler did the right
thing. Nothing in the tables tells of a reset of a step that was `enqueued`, so that attempts may be fewer than the
history tells, never more. Identities are not computed anew from contexts, nor results from handlers.
"""


def make() -> str:
    """The page."""
    parts = [INTRO]
    for title, checks in GROUPS:
        parts.append(f"## {title}")
        if checks is history.CHECKS:
            parts.append(HISTORY)
        parts.append(_rules(checks))
    return page("Rules of `tasker db verify`", *parts, "## What it cannot see", LIMITS)


def _rules(checks: tuple[Check, ...]) -> str:
    rows = []
    for rule in (rule for check in checks for rule in check.rules):
        ways = "; ".join(made.does for name, made in ALL if name == rule.name)
        repaired = "" if rule.repaired is None else f"*pending*: {rule.repaired}; "
        rows.append((code(rule.name), from_docstring(rule.says), f"{repaired}{from_docstring(rule.advice)}", ways))
    return table(HEAD, rows)
