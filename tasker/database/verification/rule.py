"""What a rule is, and how rules about the same rows become one statement.

A *check* is one source of rows (``FROM ...``) and the rules about them. Its statement reads the source once, whatever
the number of rules, and returns the rows that break one: which rule, which task and step, and what is wrong.

In the SQL of a check, ``$scope(expression)`` becomes the condition that a task uuid is one of those asked for, and
``$name`` a fragment that is known only at the database: its queues, or from when on its history is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

Severity = Literal["violation", "pending"]

LIVE = "('enqueued', 'in_progress', 'waiting_for_retry')"
SATISFIED = "('complete', 'resolved_manually', 'skipped')"
STEP_ENDS = "('complete', 'error', 'cancelled', 'resolved_manually', 'skipped')"
TASK_ENDS = "('complete', 'error', 'cancelled', 'resolved_manually')"

_NOTHING = ("CAST(NULL AS uuid)", "CAST(NULL AS integer)", "CAST(NULL AS integer)")
_SCOPE = re.compile(r"\$scope\(([\w.]+)\)")
_FRAGMENT = re.compile(r"\$(\w+)")


@dataclass(frozen=True)
class Rule:
    """One thing that must hold.

    Attributes:
        name: what ``--rule`` takes.
        says: the rule, as a sentence.
        when: SQL condition on the check's rows: this row breaks the rule.
        detail: SQL text expression: what is wrong with this row.
        advice: what to do about it.
        repaired: for what the engine puts right by itself: who does it, and when. Such rows are *pending* and no
            violation.
    """

    name: str
    says: str
    when: str
    detail: str
    advice: str
    repaired: str | None = None

    @property
    def severity(self) -> Severity:
        """``pending`` where the engine repairs it, else ``violation``."""
        return "violation" if self.repaired is None else "pending"


@dataclass(frozen=True)
class Check:
    """Rules about the same rows.

    Attributes:
        about: what the rows are, for those who watch.
        source: ``FROM ...``.
        rules: what must hold for each row.
        where: which rows are looked at; all of them when empty.
        task: the rows' task uuid, as SQL; ``None`` where rows belong to no task.
        step: the rows' position and map index, as SQL.
        reads_history: whether it reads the audit tables.
    """

    about: str
    source: str
    rules: tuple[Rule, ...]
    where: str = ""
    task: str | None = None
    step: tuple[str, str] | None = None
    reads_history: bool = False

    def statement(
        self, rules: Collection[Rule], examples: int, scope: Callable[[str], str], fragments: Mapping[str, str]
    ) -> str:
        """The check as SQL, for some of its rules and at most ``examples`` rows of each.

        Its rows: rule, task uuid, position, map index, detail, and how many rows break that rule.
        """
        key = (self.task or _NOTHING[0], *(self.step or _NOTHING[1:]))
        broken = " OR ".join(f"({rule.when})" for rule in rules)
        verdicts = ", ".join(f"('{rule.name}', ({rule.when}), {rule.detail})" for rule in rules)
        text = f"""
            SELECT f.rule, f.task_uuid, f.step_position, f.map_index, f.detail, f.total
            FROM (SELECT v.rule, {key[0]} AS task_uuid, {key[1]} AS step_position, {key[2]} AS map_index, v.detail,
                         count(*) OVER same_rule AS total, row_number() OVER same_rule AS no
                  {self.source}
                  CROSS JOIN LATERAL (VALUES {verdicts}) AS v(rule, is_broken, detail)
                  WHERE {self.where or "true"} AND ({broken}) AND v.is_broken
                  WINDOW same_rule AS (PARTITION BY v.rule)) AS f
            WHERE f.no <= {int(examples)}
            ORDER BY 1, 2, 3, 4, 5"""
        text = _SCOPE.sub(lambda match: f"({scope(match[1])})", text)
        return _FRAGMENT.sub(lambda match: fragments[match[1]], text)


def told(*problems: tuple[str, str]) -> tuple[str, str]:
    """``when`` and ``detail`` of a rule that can be broken in several ways: (condition, SQL text of what is wrong)."""
    when = " OR ".join(f"({condition})" for condition, _ in problems)
    detail = ", ".join(f"CASE WHEN {condition} THEN {text} END" for condition, text in problems)
    return when, f"concat_ws('; ', {detail})"
