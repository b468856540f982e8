"""Limits of concurrency by key, and steps that are parked because their limit is reached.

Single-step tasks, of which the first ``keyed`` share a key that one step may use at a time. Two executors claim in
two moves: count, and commit; what they count on may have changed in between, unless something is locked. Executors
may crash. A parked step is ``enqueued`` with a timer and without a message; the second task may be paused.

Stands for the design of the timer kind ``limit`` in ``claim_steps``, with ``settle_outcomes``, ``recover_steps``,
``pause_tasks`` and ``resume_tasks``. A due timer is looked at in the order of its time, one per claim (a claim looks
at a limited number, the model at one).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.model.explorer import Inevitable, Promise
from tests.model.rules import Base, Rule, put

PAUSABLE = 1


class State(NamedTuple):
    steps: tuple[str, ...]
    """enqueued, running, complete."""
    mail: tuple[int, ...]
    """In the order of the queue."""
    timers: tuple[tuple[int, bool], ...] = ()
    """Parked steps, in the order of their time; whether that comes by itself."""
    claims: tuple[tuple[int, bool, bool], ...] = ()
    """Under way: step, by timer, whether its limit was seen as reached."""
    counter: int = 0
    """Without the rule: a counter of its own instead of a look at the steps."""
    paused: bool = False
    pauses: int = 0
    crashes: int = 0


@dataclass(frozen=True)
class Limits(Base):
    count: int = 3
    keyed: int = 2
    pauses: int = 1
    crashes: int = 1
    # The rules.
    locks_the_key: bool = True
    derived: bool = True
    parks_for_a_time: bool = True
    parks: bool = True
    message_counts_too: bool = True
    paused_timers_go: bool = True

    def start(self) -> State:
        everything = tuple(range(self.count))
        return State(("enqueued",) * self.count, everything, pauses=self.pauses, crashes=self.crashes)

    def _keyed(self, step: int) -> bool:
        return step < self.keyed

    def _full(self, s: State, step: int) -> bool:
        if not self._keyed(step):
            return False
        if not self.derived:
            return s.counter > 0
        return any(s.steps[other] == "running" for other in range(self.keyed))

    def moves(self, s: State) -> Iterator[tuple[str, State]]:
        if len(s.claims) < 2:
            yield from self._begin(s)
        for claim in s.claims:
            yield self._commit(s, claim)
        for step, state in enumerate(s.steps):
            if state != "running":
                continue
            after = s._replace(steps=put(s.steps, step, "complete"))
            if self._keyed(step):
                after = after._replace(counter=max(0, s.counter - 1))
                if not self.parks_for_a_time:  # whoever ends wakes those that wait
                    after = after._replace(timers=tuple((other, True) for other, _ in s.timers))
            yield f"complete {step}", after
            if s.crashes:
                after = s._replace(steps=put(s.steps, step, "enqueued"), mail=(*s.mail, step), crashes=s.crashes - 1)
                yield f"crash {step}", after
        if s.pauses and not s.paused:
            yield "pause 1", s._replace(paused=True, pauses=s.pauses - 1)
        if s.paused and not any(step == PAUSABLE for step, _, _ in s.claims):
            queued = s.steps[PAUSABLE] == "enqueued" and PAUSABLE not in s.mail
            again = queued and all(step != PAUSABLE for step, _ in s.timers)
            yield "resume 1", s._replace(paused=False, mail=(*s.mail, PAUSABLE) if again else s.mail)
        # Others send messages for steps that are parked meanwhile: a StepEnqueuer that read before, an operator.
        for step, _ in s.timers:
            if step not in s.mail and s.pauses:
                yield f"send_again {step}", s._replace(mail=(*s.mail, step), pauses=s.pauses - 1)

    def _begin(self, s: State) -> Iterator[tuple[str, State]]:
        taken = {step for step, _, _ in s.claims}

        def may(step: int) -> bool:
            locked = self.locks_the_key and self._keyed(step) and any(self._keyed(other) for other in taken)
            return step not in taken and not locked

        for step in s.mail:
            parked = any(step == other for other, _ in s.timers)
            full = self._full(s, step) and (self.message_counts_too or not parked)
            if not self.parks and full and s.steps[step] == "enqueued":
                return  # it stays in front, and so do all behind it
            if may(step):
                yield f"claim {step}", s._replace(claims=(*s.claims, (step, False, full)))
            break
        due = [step for step, by_itself in s.timers if by_itself]
        for step in due[:1]:
            if step == PAUSABLE and s.paused and not self.paused_timers_go:
                break
            if may(step):
                yield f"claim {step} by timer", s._replace(claims=(*s.claims, (step, True, self._full(s, step))))

    def _commit(self, s: State, claim: tuple[int, bool, bool]) -> tuple[str, State]:
        step, by_timer, full = claim
        mail = s.mail if by_timer else tuple(other for other in s.mail if other != step)
        rest = tuple(timer for timer in s.timers if timer[0] != step)
        after = s._replace(claims=tuple(c for c in s.claims if c != claim), mail=mail)
        if s.steps[step] != "enqueued" or (step == PAUSABLE and s.paused):
            return f"drop {step}", after._replace(timers=rest if by_timer or s.steps[step] != "enqueued" else s.timers)
        if full:
            return f"park {step}", after._replace(timers=(*rest, (step, self.parks_for_a_time)))
        counter = after.counter + 1 if self._keyed(step) else after.counter
        return f"start {step}", after._replace(
            steps=put(s.steps, step, "running"), timers=rest, counter=min(counter, 2)
        )

    def wrong(self, s: State) -> str | None:
        if sum(s.steps[step] == "running" for step in range(self.keyed)) > 1:
            return "more steps run than the limit allows"
        return None

    def done(self, s: State) -> bool:
        return all(state == "complete" for state in s.steps)

    def promises(self) -> Sequence[Promise | Inevitable]:
        def over(*steps: int) -> Callable[[State], bool]:
            return lambda s: all(s.steps[step] == "complete" for step in steps)

        others = Promise(
            "a reached limit delays the steps of its key alone",
            over(self.count - 1),
            frozenset({"crash", *(f"complete {step}" for step in range(self.keyed))}),
        )
        paused = Promise("a paused task delays itself alone", over(0, *range(2, self.count)), frozenset({"resume"}))
        return (paused,) if self.keyed == self.count else (others, paused)


SMALL = (Limits(pauses=0), Limits(), Limits(keyed=3, crashes=0))
LARGE = (Limits(count=4, keyed=3, pauses=2, crashes=2),)
RULES = (
    Rule(
        "locks_the_key",
        46,
        "A claim locks the key's row before it counts, and holds it until it commits.",
        "more steps run than the limit allows",
        kept="design",
    ),
    Rule(
        "derived",
        47,
        "What a limit has in use is counted from steps in progress, never kept in a counter: whatever ends a step, a"
        " crash too, frees its place.",
        "nothing leads to the end",
        kept="design",
    ),
    Rule(
        "parks",
        48,
        "A claim parks a step whose limit is reached (message out, timer in) and goes on; it leaves nothing at the head"
        " of the queue.",
        "a reached limit delays the steps of its key alone",
        kept="design",
    ),
    Rule(
        "parks_for_a_time",
        49,
        "A parked step has a time at which it is looked at again. Waking it sooner is a hint; a wake that looks while"
        " the park is not committed finds nobody.",
        "nothing leads to the end",
        {"crashes": 0},
        kept="design",
    ),
    Rule(
        "message_counts_too",
        50,
        "A message for a parked step, which others may send, is looked at as any other: against the limit.",
        "more steps run than the limit allows",
        {"count": 2, "pauses": 1},
        kept="design",
    ),
    Rule(
        "paused_timers_go",
        51,
        "Due timers of paused tasks go, whatever delays the step (retry, limit, circuit); resuming sends"
        " anew. Left due,"
        " they stand in front of all others.",
        "a paused task delays itself alone",
        {"pauses": 1, "keyed": 3, "crashes": 0},
        kept="design",
    ),
)
