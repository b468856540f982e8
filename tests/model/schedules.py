"""Schedules: each slot becomes one task, whichever coordinators look, however late they are.

Time goes through numbered slots. Two coordinators fire: they look at the schedule (one move), and act (another). The
schedule may be paused and resumed, removed and added again under its name. ``catch_up`` says what becomes of slots
that nobody was there to fire: ``all`` of them, or the ``latest`` alone; those that pass during a pause are left out.

Stands for the design of ``fire_schedules`` and the table ``schedules``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.model.rules import Base, Rule, put


class State(NamedTuple):
    """Slots are numbered from 1. ``fired``: tasks by slot. ``claimed``: rows (schedule, slot)."""

    fired: tuple[int, ...]
    now: int = 0
    next: int = 1
    claimed: frozenset[int] = frozenset()
    excused: frozenset[int] = frozenset()
    """Slots that passed while it was paused or removed, or that a later one stands for."""
    paused: bool = False
    removed: bool = False
    looks: tuple[int, ...] = ()
    """What coordinators have read: the next slot."""
    halves: tuple[int, ...] = ()
    """Without the rule: claimed, and no task yet."""
    pauses: int = 1
    removals: int = 1
    wrongly: str = ""


@dataclass(frozen=True)
class Schedules(Base):
    slots: int = 3
    catch_up: str = "all"
    pauses: int = 1
    removals: int = 1
    # The rules.
    claims_slot: bool = True
    looks_again: bool = True
    one_transaction: bool = True
    goes_on_from_slot: bool = True
    resumes_from_now: bool = True
    keeps_slots: bool = True
    one_clock: bool = True

    def start(self) -> State:
        return State((0,) * (self.slots + 1), pauses=self.pauses, removals=self.removals)

    def moves(self, s: State) -> Iterator[tuple[str, State]]:
        if s.now < self.slots:
            now = s.now + 1
            yield "time passes", s._replace(now=now, excused=s.excused | {now} if s.paused or s.removed else s.excused)
        due = s.next <= min(self.slots, s.now if self.one_clock else s.now + 1)
        if due and len(s.looks) < 2 and not s.paused and not s.removed:
            yield f"look at slot {s.next}", s._replace(looks=(*s.looks, s.next))
        for slot in sorted(set(s.looks)):
            looks = list(s.looks)
            looks.remove(slot)
            yield f"fire slot {slot}", self._fire(s._replace(looks=tuple(looks)), slot)
        for slot in s.halves:
            rest = s._replace(halves=tuple(other for other in s.halves if other != slot))
            yield f"create task of {slot}", rest._replace(fired=put(s.fired, slot, s.fired[slot] + 1))
            yield "coordinator dies", rest
        if s.pauses and not s.paused and not s.removed:
            yield "pause", s._replace(paused=True, pauses=s.pauses - 1)
        if s.paused and not s.removed:
            after = s._replace(paused=False)
            if self.resumes_from_now:
                # Slots that were due before it was paused, and not fired, are given up with those of the pause.
                passed = frozenset(range(s.next, s.now + 1))
                after = after._replace(next=max(s.next, s.now + 1), excused=s.excused | passed)
            yield "resume", after
        if s.removals and not s.removed:
            unfired = frozenset(range(s.next, s.now + 1))
            yield "remove", s._replace(
                removed=True, paused=False, removals=s.removals - 1, excused=s.excused | unfired,
                claimed=s.claimed if self.keeps_slots else frozenset(),
            )  # fmt: skip
        if s.removed:
            # Cron knows the slot of this moment as due; that it was fired is known from its row alone.
            yield (
                "add again",
                s._replace(removed=False, next=max(s.now, 1), excused=s.excused - {s.now} if s.now else s.excused),
            )

    def _fire(self, s: State, slot: int) -> State:
        if self.looks_again:
            if s.paused or s.removed or s.next != slot:
                return s
        elif s.paused or s.removed:
            s = s._replace(wrongly="fired while it was paused or removed")
        if slot > s.now:
            s = s._replace(wrongly="fired before its time")
        if self.catch_up == "latest":
            s = s._replace(excused=s.excused | frozenset(range(slot, s.now)))
            slot = max(slot, s.now)
        following = slot + 1 if self.goes_on_from_slot else s.now + 1
        s = s._replace(next=max(s.next, following) if self.looks_again else following)
        if self.claims_slot:
            if slot in s.claimed:
                return s
            s = s._replace(claimed=s.claimed | {slot})
        if not self.one_transaction:
            return s._replace(halves=(*s.halves, slot))
        return s._replace(fired=put(s.fired, slot, s.fired[slot] + 1))

    def wrong(self, s: State) -> str | None:
        if any(count > 1 for count in s.fired):
            return "a slot was fired twice"
        for slot, count in enumerate(s.fired):
            if count and self.resumes_from_now is False and slot in s.excused:
                return "a slot of a pause was fired"
        return s.wrongly or None

    def done(self, s: State) -> bool:
        return s.now == self.slots and all(s.fired[slot] == 1 or slot in s.excused for slot in range(1, self.slots + 1))


SMALL = (Schedules(), Schedules(catch_up="latest"))
LARGE = (Schedules(slots=4, pauses=2, removals=2), Schedules(slots=4, catch_up="latest", pauses=2, removals=2))
RULES = (
    Rule(
        "looks_again",
        57,
        "Whoever fires locks the schedule and looks again: paused, removed, or its slot fired meanwhile"
        " means: not now.",
        "fired while it was paused or removed",
        kept="design",
    ),
    Rule(
        "claims_slot",
        58,
        "A slot is claimed by a unique row (schedule, slot).",
        "a slot was fired twice",
        kept="design",
    ),
    Rule(
        "keeps_slots",
        59,
        "Rows of fired slots outlive the removal of their schedule: one added again under that name fires"
        " none of them anew.",
        "a slot was fired twice",
        kept="design",
    ),
    Rule(
        "one_transaction",
        60,
        "The slot's row, its task and the next slot are one transaction.",
        "nothing leads to the end",
        kept="design",
    ),
    Rule(
        "goes_on_from_slot",
        61,
        "The next slot follows from the slot that was fired, not from the time at which it was.",
        "nothing leads to the end",
        kept="design",
    ),
    Rule(
        "resumes_from_now",
        62,
        "A resumed schedule goes on with the first slot that lies ahead.",
        "a slot of a pause was fired",
        kept="design",
    ),
    Rule(
        "one_clock",
        63,
        "What is due is decided by the database's clock alone.",
        "fired before its time",
        kept="design",
    ),
)
