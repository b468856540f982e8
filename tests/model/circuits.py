"""A shared circuit: opening, parking what it guards, one probe when half open, closing with a ramp.

Single-step tasks that all call one system, which may be down; failures in a row open the circuit. A call ends by
a success or failure, decided by how the system was when it was made. Claims take two moves (look at the circuit,
commit); executors may crash, and their steps then return to the queue.

Stands for the design of ``circuit_breakers`` and the timer kind ``circuit`` in ``claim_steps`` and
``settle_outcomes``; outcomes take one move each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.model.rules import Base, Rule, put


class Step(NamedTuple):
    """``at``: queued (message), parked (timer that comes due), forgotten (one that does not), running, complete."""

    at: str = "queued"
    fence: int = 0
    good: bool = True
    """Running: whether the system answered it."""
    attempts: int = 0


class State(NamedTuple):
    steps: tuple[Step, ...]
    circuit: str = "closed"
    failures: int = 0
    probe: tuple[int, int] | None = None
    """Step and fence that found out last, or are finding out."""
    ramp: bool = False
    """Just closed: one step at a time, until one more success."""
    up: bool = True
    claims: tuple[tuple[int, str], ...] = ()
    """Under way: step, and what is decided: start, probe or park."""
    breaks: int = 1
    crashes: int = 1
    wrongly: str = ""


@dataclass(frozen=True)
class Circuits(Base):
    count: int = 2
    crashes: int = 1
    threshold: int = 1
    # The rules.
    probe_is_derived: bool = True
    locks_the_circuit: bool = True
    only_probe_decides: bool = True
    parks_for_a_time: bool = True
    parking_is_free: bool = True

    def start(self) -> State:
        return State((Step(),) * self.count, crashes=self.crashes)

    def _probing(self, s: State) -> bool:
        if s.probe is None:
            return False
        if not self.probe_is_derived:
            return True
        step, fence = s.probe
        return (s.steps[step].at, s.steps[step].fence) == ("running", fence)

    def _decide(self, s: State) -> str:
        if s.circuit == "open":
            return "park"
        if s.circuit == "half_open":
            probing = self._probing(s) or (self.locks_the_circuit and any(what == "probe" for _, what in s.claims))
            return "park" if probing else "probe"
        if s.ramp and (any(step.at == "running" for step in s.steps) or any(what == "start" for _, what in s.claims)):
            return "park"
        return "start"

    def moves(self, s: State) -> Iterator[tuple[str, State]]:
        if len(s.claims) < 2:
            for index, step in enumerate(s.steps):
                if step.at in ("queued", "parked") and all(index != other for other, _ in s.claims):
                    yield f"claim {index}", s._replace(claims=(*s.claims, (index, self._decide(s))))
        for claim in s.claims:
            yield self._commit(s, claim)
        for index, step in enumerate(s.steps):
            if step.at == "running":
                yield self._outcome(s, index, step)
                if s.crashes:
                    again = step._replace(at="queued")
                    yield f"crash {index}", s._replace(steps=put(s.steps, index, again), crashes=s.crashes - 1)
        if s.circuit == "open":
            yield "cool_down", s._replace(circuit="half_open", probe=None)
        if s.up and s.breaks:
            yield "system goes down", s._replace(up=False, breaks=s.breaks - 1)
        if not s.up:
            yield "system comes back", s._replace(up=True)

    def _commit(self, s: State, claim: tuple[int, str]) -> tuple[str, State]:
        index, what = claim
        step = s.steps[index]
        s = s._replace(claims=tuple(c for c in s.claims if c != claim))
        if what == "park":
            at = "parked" if self.parks_for_a_time else "forgotten"
            attempts = step.attempts if self.parking_is_free else step.attempts + 1
            if attempts > 1:
                return f"park {index}", s._replace(steps=put(s.steps, index, step._replace(at="error")))
            return f"park {index}", s._replace(steps=put(s.steps, index, step._replace(at=at, attempts=attempts)))
        started = step._replace(at="running", fence=step.fence + 1, good=s.up)
        after = s._replace(steps=put(s.steps, index, started))
        if what == "probe":
            wrongly = "two steps probe at once" if self._probing(s) else ""
            after = after._replace(probe=(index, started.fence), wrongly=wrongly)
        return f"{what} {index}", after

    def _outcome(self, s: State, index: int, step: Step) -> tuple[str, State]:
        mine = s.probe == (index, step.fence)
        # A failed step waits for its retry, which spends an attempt; the model gives it as many as it needs.
        after = s._replace(
            steps=put(
                s.steps,
                index,
                step._replace(at="complete", good=True) if step.good else step._replace(at="queued", good=True),
            )
        )
        if s.circuit == "closed":
            if step.good:
                return f"succeed {index}", after._replace(failures=0, ramp=False)
            failures = s.failures + 1
            if failures >= self.threshold:
                return f"fail {index}", after._replace(circuit="open", failures=0, probe=None, ramp=False)
            return f"fail {index}", after._replace(failures=failures)
        if s.circuit == "half_open" and (mine or not self.only_probe_decides):
            if step.good:
                woken = tuple(st._replace(at="parked") if st.at == "forgotten" else st for st in after.steps)
                wrongly = "" if mine else "a call from before it opened closed the circuit"
                return f"succeed {index}", after._replace(
                    circuit="closed", probe=None, ramp=True, steps=woken, wrongly=wrongly
                )
            return f"fail {index}", after._replace(circuit="open", probe=None)
        return f"{'succeed' if step.good else 'fail'} {index}", after

    def wrong(self, s: State) -> str | None:
        if s.wrongly:
            return s.wrongly
        if any(step.at == "error" for step in s.steps):
            return "a step failed that never ran"
        return None

    def done(self, s: State) -> bool:
        return all(step.at == "complete" for step in s.steps)

    def canonical(self, s: State) -> State:
        # Fences matter only to tell the probe from later runs of its step.
        steps = []
        for index, step in enumerate(s.steps):
            if s.probe is None or s.probe[0] != index:
                step = step._replace(fence=0)
            else:
                step = step._replace(fence=1 if step.fence == s.probe[1] else 2)
            steps.append(step)
        return s._replace(steps=tuple(steps), probe=None if s.probe is None else (s.probe[0], 1))


SMALL = (Circuits(),)
LARGE = (Circuits(count=3, threshold=2),)
RULES = (
    Rule(
        "probe_is_derived",
        52,
        "Who probes a half-open circuit is a step with its fence, and counts only while that step runs under"
        " it: a probe"
        " that died leaves no flag behind.",
        "nothing leads to the end",
        kept="design",
    ),
    Rule(
        "locks_the_circuit",
        53,
        "The probe is taken under the lock of the circuit's row.",
        "two steps probe at once",
        kept="design",
    ),
    Rule(
        "only_probe_decides",
        54,
        "While a circuit is not closed only the outcome of its probe decides: others were called before it opened.",
        "closed the circuit",
        kept="design",
    ),
    Rule(
        "parks_for_a_time",
        55,
        "What an open circuit parks comes due by itself, and is parked again if need be; closing only makes it sooner.",
        "nothing leads to the end",
        kept="design",
    ),
    Rule(
        "parking_is_free",
        56,
        "Parking spends no attempt.",
        "a step failed that never ran",
        kept="design",
    ),
)
