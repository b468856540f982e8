"""Graphs that grow and shrink as they run: branches that a decision leaves out, map steps with any number of items.

A decision ``d`` chooses among ``a`` and ``b``; the map step ``m`` follows ``a`` and has zero to two items; ``j``
joins ``m`` and ``b``. Steps of a failed task may be retried once.

Stands for the design of ``advance_tasks`` and ``finish_tasks`` with ``skipped`` branches and map steps: each
outcome, with all that follows from it, is one transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.model.rules import Base, Rule, put

D, A, B, M, J = range(5)
NAMES = "dabmj"
PARENTS = ((), (D,), (D,), (A,), (M, B))
CHILDREN = ((A, B), (M,), (J,), (J,), ())
LIVE = ("enqueued",)


class State(NamedTuple):
    """A map step that has its items is ``expanded`` until the last of them is complete."""

    steps: tuple[str, ...] = ("enqueued", "pending", "pending", "pending", "pending")
    unmet: tuple[int, ...] = (0, 1, 1, 1, 2)
    items: tuple[str, ...] = ()
    open_items: int = 0
    active: int = 1
    task: str = "in_progress"
    failures: int = 1
    retries: int = 1
    later: tuple[int, ...] = ()
    """Without the rules: what another transaction is to do: skipped steps to cascade from, or -1 for a second item."""


@dataclass(frozen=True)
class Growing(Base):
    failures: int = 1
    most_items: int = 2
    # The rules.
    skipped_satisfies: bool = True
    all_skipped_skips: bool = True
    cascades_at_once: bool = True
    empty_map_completes: bool = True
    counts_items_at_once: bool = True
    join_waits_for_all: bool = True
    failed_item_stays_open: bool = True

    def start(self) -> State:
        return State(failures=self.failures, retries=self.failures)

    # -- what follows from an outcome -----------------------------------------------------------------------------

    def _satisfied(self, s: State, step: int, items: int) -> State:
        """``step`` is complete or skipped: its dependents, and what follows from them."""
        for child in CHILDREN[step]:
            s = s._replace(unmet=put(s.unmet, child, s.unmet[child] - 1))
            if s.unmet[child] != 0 or s.steps[child] != "pending":
                continue
            if self.all_skipped_skips and all(s.steps[parent] == "skipped" for parent in PARENTS[child]):
                s = self._skip(s, child, items)
            elif child == M:
                s = self._expand(s, items)
            else:
                s = s._replace(steps=put(s.steps, child, "enqueued"), active=s.active + 1)
        return s

    def _skip(self, s: State, step: int, items: int) -> State:
        s = s._replace(steps=put(s.steps, step, "skipped"))
        if not self.skipped_satisfies:
            return s
        if not self.cascades_at_once:
            return s._replace(later=(*s.later, step))
        return self._satisfied(s, step, items)

    def _expand(self, s: State, items: int) -> State:
        s = s._replace(steps=put(s.steps, M, "expanded"), open_items=items)
        if not items:
            if not self.empty_map_completes:
                return s
            return self._satisfied(s._replace(steps=put(s.steps, M, "complete")), M, 0)
        if self.counts_items_at_once:
            return s._replace(items=("enqueued",) * items, active=s.active + items)
        first = s._replace(items=("enqueued", *("pending",) * (items - 1)), active=s.active + 1)
        return first._replace(later=(*s.later, -1)) if items > 1 else first

    def _left(self, s: State) -> State:
        s = s._replace(active=s.active - 1)
        if s.active:
            return s
        failed = "error" in s.steps or "error" in s.items
        open_ = any(state in ("pending", "expanded") for state in s.steps) or "pending" in s.items
        return s._replace(task="error" if failed or open_ else "complete")

    # -- moves ----------------------------------------------------------------------------------------------------

    def moves(self, s: State) -> Iterator[tuple[str, State]]:
        if s.task == "error" and s.retries and ("error" in s.steps or "error" in s.items):
            again = tuple("enqueued" if state == "error" else state for state in s.steps)
            items = tuple("enqueued" if state == "error" else state for state in s.items)
            count = s.steps.count("error") + s.items.count("error")
            yield "retry", s._replace(steps=again, items=items, active=count, task="in_progress", retries=s.retries - 1)
        for what in s.later:
            rest = s._replace(later=tuple(other for other in s.later if other != what))
            if what >= 0:
                yield f"cascade from {NAMES[what]}", self._satisfied(rest, what, 0)
            elif s.task == "in_progress":
                more = tuple("enqueued" if state == "pending" else state for state in s.items)
                yield "enqueue the other item", rest._replace(items=more, active=s.active + s.items.count("pending"))
        for step, state in enumerate(s.steps):
            if state != "enqueued":
                continue
            done = s._replace(steps=put(s.steps, step, "complete"))
            if step == D:
                for chosen in ((A,), (B,), (A, B), ()):
                    after = done
                    for branch in (A, B):
                        if branch not in chosen:
                            after = after._replace(unmet=put(after.unmet, branch, 0))
                            after = self._skip(after, branch, 0)
                    for branch in chosen:
                        after = after._replace(
                            unmet=put(after.unmet, branch, 0), steps=put(after.steps, branch, "enqueued"),
                            active=after.active + 1,
                        )  # fmt: skip
                    yield f"decide for {'+'.join(NAMES[branch] for branch in chosen) or 'none'}", self._left(after)
            elif step == A:
                for count in range(self.most_items + 1):
                    yield f"complete a with {count} items", self._left(self._satisfied(done, step, count))
            else:
                yield f"complete {NAMES[step]}", self._left(self._satisfied(done, step, 0))
            if s.failures:
                after = s._replace(steps=put(s.steps, step, "error"), failures=s.failures - 1)
                yield f"fail {NAMES[step]}", self._left(after)
        for index, state in enumerate(s.items):
            if state != "enqueued":
                continue
            after = s._replace(items=put(s.items, index, "complete"), open_items=s.open_items - 1)
            if not self.join_waits_for_all:
                after = self._satisfied(after, M, 0) if after.unmet[J] else after
            if after.open_items == 0:
                after = after._replace(steps=put(after.steps, M, "complete"))
                if self.join_waits_for_all:
                    after = self._satisfied(after, M, 0)
            yield f"complete m[{index}]", self._left(after)
            if s.failures:
                after = s._replace(items=put(s.items, index, "error"), failures=s.failures - 1)
                if not self.failed_item_stays_open:
                    after = after._replace(open_items=s.open_items - 1)
                yield f"fail m[{index}]", self._left(after)

    # -- what must hold -------------------------------------------------------------------------------------------

    def wrong(self, s: State) -> str | None:
        live = s.steps.count("enqueued") + s.items.count("enqueued")
        if s.active != live:
            return f"active is {s.active}, but {live} steps live"
        for step, state in enumerate(s.steps):
            if PARENTS[step] and (state in ("enqueued", "expanded") or (step == M and state == "complete")):
                parents = [s.steps[parent] for parent in PARENTS[step]]
                if any(parent not in ("complete", "skipped") for parent in parents):
                    return f"{NAMES[step]} starts before all that it depends on"
                if all(parent == "skipped" for parent in parents):
                    return f"{NAMES[step]} starts although all that it depends on was left out"
        if s.task == "error" and "error" not in s.steps and "error" not in s.items:
            return "the task ended in error although no step failed"
        return None

    def done(self, s: State) -> bool:
        return s.task == "complete" or (s.task == "error" and not s.retries)


SMALL = (Growing(),)
LARGE = (Growing(failures=3, most_items=3),)
RULES = (
    Rule(
        "skipped_satisfies",
        64,
        "A skipped step satisfies its dependents as a complete one does.",
        "although no step failed",
        kept="design",
    ),
    Rule(
        "all_skipped_skips",
        65,
        "A step is skipped when all that it depends on was skipped; one that depends on anything complete runs.",
        "although all that it depends on was left out",
        kept="design",
    ),
    Rule(
        "cascades_at_once",
        66,
        "Skipping goes through to the last step that it reaches in the transaction of the decision.",
        "although no step failed",
        kept="design",
    ),
    Rule(
        "empty_map_completes",
        67,
        "A map step without items is complete in the transaction that finds that out, and so on for what"
        " follows from it.",
        "although no step failed",
        kept="design",
    ),
    Rule(
        "counts_items_at_once",
        68,
        "All items of a map step are made and counted in the transaction of its parent; only messages may come later.",
        "although no step failed",
        kept="design",
    ),
    Rule(
        "join_waits_for_all",
        69,
        "What depends on a map step counts it once, with its last item.",
        "starts before all that it depends on",
        kept="design",
    ),
    Rule(
        "failed_item_stays_open",
        70,
        "An item that failed stays open in the count of its map step, so that its retry closes it, once.",
        "although no step failed",
        kept="design",
    ),
)
