"""A step that is another task: starting the child, its end coming back, cancelling both.

The parent's one step ``p`` is claimed, starts a child task and waits for its end; the child runs and ends well or
badly, an operator may retry it, and a deadline may give ``p`` up and have it claimed again. The parent may be
cancelled at any time. The end of a child is reported by its finalizer; a report and a cancellation both concern two
tasks, and take their locks one after the other.

Stands for the design of parent and child tasks: ``settle_outcomes`` with a delegated step, ``create_tasks``,
``finalize_task`` and ``cancel_tasks``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.model.rules import Base, Rule, put


class Child(NamedTuple):
    """``told``: whether the end of this life was reported. ``finish``: counts its lives."""

    state: str = "running"
    told: bool = False


class State(NamedTuple):
    step: str = "enqueued"
    """enqueued, claimed (the executor has it), waiting (for the child), complete, error, cancelled."""
    fence: int = 0
    parent: str = "in_progress"
    children: tuple[Child, ...] = ()
    holds: int = 0
    """The fence under which the executor is about to start the child; 0: it holds nothing."""
    report: int | None = None
    """A report under way: of which child. It holds one lock and wants the other."""
    cancelling: bool = False
    """A cancellation under way, likewise."""
    deadlines: int = 1
    crashes: int = 1
    retries: int = 1
    cancels: int = 1


@dataclass(frozen=True)
class Children(Base):
    deadlines: int = 1
    crashes: int = 1
    retries: int = 1
    cancels: int = 1
    # The rules.
    one_identity: bool = True
    starts_under_fence: bool = True
    attaches_to_ended: bool = True
    reports_with_end: bool = True
    cancels_child: bool = True
    parent_first: bool = True

    def start(self) -> State:
        return State(deadlines=self.deadlines, crashes=self.crashes, retries=self.retries, cancels=self.cancels)

    def moves(self, s: State) -> Iterator[tuple[str, State]]:
        parent_locked = s.cancelling or (s.report is not None and self.parent_first)
        child_locked = s.report is not None
        if s.step == "enqueued" and s.parent == "in_progress" and not parent_locked:
            yield "claim", s._replace(step="claimed", fence=s.fence + 1, holds=s.fence + 1)
        if s.holds and not parent_locked and not child_locked:
            yield "start_child", self._start_child(s)
            if s.crashes:
                again = "enqueued" if s.step == "claimed" and s.holds == s.fence else s.step
                yield "executor dies", s._replace(step=again, holds=0, crashes=s.crashes - 1)
        if s.step == "waiting" and s.deadlines and not parent_locked:
            yield "deadline", s._replace(step="enqueued", deadlines=s.deadlines - 1)
        for index, child in enumerate(s.children):
            if child.state == "running" and not child_locked:
                for end in ("complete", "error"):
                    ended = s._replace(children=put(s.children, index, Child(end)))
                    yield f"child ends: {end}", ended
            if child.state in ("complete", "error") and not child.told and not child_locked:
                if self.parent_first and not s.cancelling:
                    yield "report locks parent", s._replace(report=index)
                if not self.parent_first:
                    yield "report locks child", s._replace(report=index)
            if child.state == "error" and s.retries and not child_locked:
                yield "retry_child", s._replace(children=put(s.children, index, Child()), retries=s.retries - 1)
        if s.report is not None and (self.parent_first or not s.cancelling):
            end = s.children[s.report].state
            told = s._replace(children=put(s.children, s.report, Child(end, told=True)), report=None)
            if not self.reports_with_end and s.crashes:
                # It was declared final first; who should tell the parent dies in between.
                yield "finalizer dies", told._replace(crashes=s.crashes - 1)
            yield "report", told._replace(step=end) if s.step == "waiting" else told
        if s.parent == "in_progress" and s.cancels and not parent_locked:
            yield "cancel locks parent", s._replace(cancelling=True, cancels=s.cancels - 1)
        if s.cancelling and not child_locked:
            children = tuple(
                Child("cancelled", told=True) if child.state == "running" and self.cancels_child else child
                for child in s.children
            )
            over = s.step in ("complete", "error")
            yield (
                "cancel",
                s._replace(
                    cancelling=False, children=children, parent="cancelled", step=s.step if over else "cancelled"
                ),
            )

    def _start_child(self, s: State) -> State:
        """One transaction: the child is created, or found, and ``p`` waits for it."""
        after = s._replace(holds=0)
        if self.starts_under_fence and not (s.step == "claimed" and s.holds == s.fence):
            return after
        waits = "waiting" if s.step == "claimed" and s.holds == s.fence else s.step
        if s.children and self.one_identity:
            (child,) = s.children
            if self.attaches_to_ended and child.state != "running" and child.told and waits == "waiting":
                return after._replace(step="error" if child.state == "cancelled" else child.state)
            return after._replace(step=waits)
        return after._replace(step=waits, children=(*s.children, Child()))

    def wrong(self, s: State) -> str | None:
        if sum(child.state in ("running", "complete") for child in s.children) > 1:
            return "two children do the work of one step"
        if s.report is not None and s.cancelling and not self.parent_first:
            return "the report and the cancellation wait for each other"
        runs = any(child.state == "running" for child in s.children)
        # Once an operator has retried a child, it goes on at his word.
        if runs and s.parent == "cancelled" and not s.holds and s.retries == self.retries:
            return "the parent was cancelled, and its child goes on"
        return None

    def done(self, s: State) -> bool:
        return s.step in ("complete", "error", "cancelled")


SMALL = (Children(),)
LARGE = (Children(deadlines=3, crashes=3, retries=3),)
RULES = (
    Rule(
        "one_identity",
        71,
        "A child's identity is its parent's step, whatever the fence: a second claim finds the child of the first.",
        "two children do the work of one step",
        kept="design",
    ),
    Rule(
        "starts_under_fence",
        72,
        "A child is created in the transaction that makes its step wait, under the fence of the claim: else nothing is"
        " created.",
        "the parent was cancelled, and its child goes on",
        kept="design",
    ),
    Rule(
        "attaches_to_ended",
        73,
        "Whoever finds a child that has ended and reported takes its end at once: it will not report again.",
        "nothing leads to the end",
        {"cancels": 0},
        kept="design",
    ),
    Rule(
        "reports_with_end",
        74,
        "The end of a child reaches its parent in the transaction that declares the child final.",
        "nothing leads to the end",
        {"deadlines": 0, "cancels": 0, "retries": 0},
        kept="design",
    ),
    Rule(
        "cancels_child",
        75,
        "Cancelling a task cancels its children in the same transaction.",
        "the parent was cancelled, and its child goes on",
        kept="design",
    ),
    Rule(
        "parent_first",
        76,
        "Whoever needs both locks the parent first, which is the order of their uuids.",
        "wait for each other",
        kept="design",
    ),
)
