"""Namespace pause and priority bands: where messages lie, who looks there, and whose turn it is.

The first model has two tasks of one step in one namespace, whose messages lie in one of three bands; a second step
follows the first of them and may be continued. The namespace may be paused and resumed, and the priority of a task
may be changed while its message lies in a queue. The second model is one executor that takes a step at a time, and
whose queues, but for the last, are never empty.

Stands for the design of bands in ``claim_steps``, ``advance_tasks`` (continuation), ``send_step_messages``
and the commands ``namespace pause`` and ``namespace resume``; one transaction to a move. The turn of queues is that
of ``claim_steps`` today.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.model.explorer import Inevitable, Promise
from tests.model.rules import Base, Rule, put

NAMES = ("a", "b", "c")
BANDS = ("high", "normal", "low")


class State(NamedTuple):
    """``c`` follows ``a``. ``knows``: the bands that the executor found when it registered."""

    steps: tuple[str, ...] = ("new", "new", "pending")
    priority: tuple[str, ...] = ("normal", "normal", "normal")
    mail: frozenset[tuple[str, int]] = frozenset()
    bands: frozenset[str] = frozenset(("normal",))
    knows: frozenset[str] | None = None
    paused: bool = False
    pauses: int = 1
    changes: int = 1
    started_paused: bool = False


@dataclass(frozen=True)
class Bands(Base):
    pauses: int = 1
    changes: int = 1
    # The rules.
    leaves_paused_alone: bool = True
    continuing_looks: bool = True
    claim_finds_bands: bool = True
    any_band_counts: bool = True
    band_comes_with_message: bool = True

    def start(self) -> State:
        return State(pauses=self.pauses, changes=self.changes)

    def _send(self, s: State, step: int) -> State:
        band = s.priority[step]
        after = s._replace(steps=put(s.steps, step, "enqueued"), mail=s.mail | {(band, step)})
        return after._replace(bands=s.bands | {band}) if self.band_comes_with_message else after

    def moves(self, s: State) -> Iterator[tuple[str, State]]:
        for step in (0, 1):
            if s.steps[step] == "new":
                yield f"create {NAMES[step]}", self._send(s, step)
        if s.steps[1] == "new":
            yield "create b in high", self._send(s._replace(priority=put(s.priority, 1, "high")), 1)
        if s.knows is None:
            yield "register", s._replace(knows=s.bands)
        else:
            for band, step in sorted(s.mail):
                if band not in (s.bands if self.claim_finds_bands else s.knows):
                    continue
                used = s._replace(mail=s.mail - {(band, step)})
                if s.paused:
                    if not self.leaves_paused_alone:
                        yield f"claim {NAMES[step]}, namespace paused", used
                elif s.steps[step] != "enqueued" or (not self.any_band_counts and band != s.priority[step]):
                    yield f"claim {NAMES[step]}, dropped", used
                else:
                    yield f"claim {NAMES[step]}", used._replace(steps=put(s.steps, step, "running"))
            for step, state in enumerate(s.steps):
                if state != "running":
                    continue
                after = s._replace(steps=put(s.steps, step, "complete"))
                yield f"complete {NAMES[step]}", self._send(after, 2) if step == 0 else after
                if step == 0 and not (s.paused and self.continuing_looks):
                    after = after._replace(steps=put(after.steps, 2, "running"), started_paused=s.paused)
                    yield "complete a, continue c", after
        if not s.paused and s.pauses:
            yield "pause", s._replace(paused=True, pauses=s.pauses - 1)
        if s.paused:
            yield "resume", s._replace(paused=False)
        if s.changes:
            for step in (0, 1):
                after = s._replace(priority=put(s.priority, step, "low"), changes=s.changes - 1)
                yield f"lower {NAMES[step]}", after

    def wrong(self, s: State) -> str | None:
        return "a step was started in a paused namespace" if s.started_paused else None

    def done(self, s: State) -> bool:
        return all(state == "complete" for state in s.steps)


class Turn(NamedTuple):
    """``number``: what the next call counts on, ``reports``: how many reports the running step will take."""

    number: int = 0
    running: bool = False
    last_waits: bool = True


@dataclass(frozen=True)
class Turns(Base):
    """One step at a time from queues of which all but the last are always full; weights say how often each begins."""

    weights: tuple[int, ...] = (1, 1)
    # The rule.
    counts_claims: bool = True

    def start(self) -> Turn:
        return Turn()

    def moves(self, s: Turn) -> Iterator[tuple[str, Turn]]:
        order = [queue for queue, weight in enumerate(self.weights) for _ in range(weight)]
        following = (s.number + 1) % len(order)
        if s.running:
            yield "report", s._replace(running=False, number=s.number if self.counts_claims else following)
            return
        last = order[s.number] == len(self.weights) - 1
        name = "last" if last and s.last_waits else f"from queue {min(order[s.number], len(self.weights) - 2)}"
        yield f"claim {name}", Turn(following, True, s.last_waits and not last)

    def wrong(self, s: Turn) -> str | None:
        return None

    def done(self, s: Turn) -> bool:
        return True

    def promises(self) -> Sequence[Promise | Inevitable]:
        return (Inevitable("no queue starves behind others that are never empty", lambda s: not s.last_waits),)


SMALL = (Bands(), Turns(), Turns((6, 3, 1)))
LARGE = (Bands(pauses=2, changes=2),)
RULES = (
    Rule(
        "leaves_paused_alone",
        40,
        "Nothing is removed from the queue of a paused namespace: resuming it sends nothing, unlike resuming a task.",
        "nothing leads to the end",
    ),
    Rule(
        "continuing_looks",
        41,
        "Continuation looks at the pause of the namespace whose queue the next step belongs to, as a claim does.",
        "was started in a paused namespace",
    ),
    Rule(
        "band_comes_with_message",
        42,
        "The transaction that sends to a band for the first time creates its queue.",
        "nothing leads to the end",
        kept="design",
    ),
    Rule(
        "claim_finds_bands",
        43,
        "Each claim finds out which bands exist; what an executor knew when it registered is old.",
        "nothing leads to the end",
        kept="design",
    ),
    Rule(
        "any_band_counts",
        44,
        "A message counts in whichever band it lies: a changed priority rules what is sent later, and moves nothing.",
        "nothing leads to the end",
        kept="design",
    ),
    Rule(
        "counts_claims",
        45,
        "Whose turn it is does not follow the numbers of calls: reports take some, and a turn is left out for ever.",
        "no queue starves",
        of=1,
        kept="yes",
    ),
)
