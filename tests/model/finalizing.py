"""Finalization: two finalizers, messages that come more than once, claims that expire, a task that is reopened.

One task that has finished, with a completion hook. Finalizers read a message (which then is invisible for a while)
and claim the task, run the hook, and finalize; each may die or be overtaken at any point. A claim may expire and a
message may show again at any time. The task may be reopened and finishes a second time.

Stands for ``claim_tasks_for_finalization``, ``claim_task_for_finalization``, ``finalize_task``,
``release_finalization_claim``, ``reopen_task``, ``end_tasks`` and ``resend_finalizations``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.model.rules import Base, Rule, put


class Finalizer(NamedTuple):
    """What it believes: the claim's number, the finish, its message, and whether the hook has run."""

    claim: int = 0
    finish: int = 0
    message: int = -1
    ran: bool = False


class State(NamedTuple):
    finish: int = 1
    finished: bool = True
    finalized: bool = False
    holder: int = -1
    claim: int = 0
    expired: bool = False
    messages: tuple[str, ...] = ("shown",)
    """shown, hidden or gone."""
    finalizers: tuple[Finalizer, ...] = (Finalizer(), Finalizer())
    hooks: tuple[int, ...] = (0, 0, 0)
    """Whether the hook ran, by finish."""
    expiries: int = 1
    crashes: int = 1
    reopens: int = 1
    resends: int = 1
    losses: int = 0
    wrongly: str = ""


@dataclass(frozen=True)
class Finalizing(Base):
    expiries: int = 1
    crashes: int = 1
    reopens: int = 1
    resends: int = 1
    losses: int = 1
    same_name: bool = False
    """Both call themselves alike, as two threads of one program might."""
    # The rules.
    keeps_message: bool = True
    checks_number: bool = True
    reopening_voids: bool = True
    numbers_rise: bool = True
    sends_again: bool = True
    keeps_when_lost: bool = True

    def start(self) -> State:
        return State(
            expiries=self.expiries, crashes=self.crashes, reopens=self.reopens, resends=self.resends, losses=self.losses
        )

    def _name(self, me: int) -> int:
        return 0 if self.same_name else me

    def moves(self, s: State) -> Iterator[tuple[str, State]]:
        for me, finalizer in enumerate(s.finalizers):
            name = "FG"[me]
            if not finalizer.claim:
                for number, message in enumerate(s.messages):
                    if message == "shown":
                        yield f"{name} reads", self._claim(s, me, number)
                continue
            if not finalizer.ran:
                # The hook's key is the finish that the claim told.
                hooks = put(s.hooks, finalizer.finish, 1)
                yield (
                    f"{name} runs the hook",
                    s._replace(hooks=hooks, finalizers=put(s.finalizers, me, finalizer._replace(ran=True))),
                )
                held = s.holder == self._name(me) and s.claim == finalizer.claim
                after = s._replace(holder=-1) if held else s
                yield f"{name} gives back", after._replace(finalizers=put(s.finalizers, me, Finalizer()))
            else:
                yield f"{name} finalizes", self._finalize(s, me, finalizer)
            if s.crashes:
                # It comes back under another name: the claim stays the dead one's until it expires.
                after = s._replace(finalizers=put(s.finalizers, me, Finalizer()), crashes=s.crashes - 1)
                yield f"{name} dies", after._replace(holder=2) if s.holder == self._name(me) else after
        if s.holder == 2 and not s.expired:
            yield "the claim of the dead expires", s._replace(expired=True)
        if s.holder in (0, 1) and not s.expired and s.expiries:
            yield "the claim expires", s._replace(expired=True, expiries=s.expiries - 1)
        for number, message in enumerate(s.messages):
            if message == "hidden":
                yield "a message shows again", s._replace(messages=put(s.messages, number, "shown"))
            if s.losses and message != "gone":
                # A queue that an operator purged.
                after = s._replace(messages=put(s.messages, number, "gone"), losses=s.losses - 1)
                yield "a message is lost", after
        if s.reopens and s.finished:
            after = s._replace(finished=False, finalized=False, finish=s.finish + 1, reopens=s.reopens - 1)
            if self.reopening_voids:
                after = after._replace(holder=-1, expired=False)
            if not self.numbers_rise:
                after = after._replace(claim=0)
            yield "reopen", after
        if not s.finished:
            yield "finish", s._replace(finished=True, messages=(*s.messages, "shown"))
        free = s.holder == -1 or s.expired
        if self.sends_again and s.finished and not s.finalized and free and set(s.messages) <= {"gone"}:
            yield "send again", s._replace(messages=(*s.messages, "shown"))
        if s.resends and s.finished and not s.finalized:
            yield "send twice", s._replace(messages=(*s.messages, "shown"), resends=s.resends - 1)

    def _claim(self, s: State, me: int, number: int) -> State:
        if not s.finished or s.finalized:
            return s._replace(messages=put(s.messages, number, "gone"))
        after = s._replace(messages=put(s.messages, number, "hidden" if self.keeps_message else "gone"))
        if s.holder not in (-1, self._name(me)) and not s.expired:
            return after
        claim = s.claim if s.holder == self._name(me) else s.claim + 1
        return after._replace(
            holder=self._name(me), claim=claim, expired=False,
            finalizers=put(s.finalizers, me, Finalizer(claim, s.finish, number)),
        )  # fmt: skip

    def _finalize(self, s: State, me: int, finalizer: Finalizer) -> State:
        after = s._replace(finalizers=put(s.finalizers, me, Finalizer()))
        gone = after._replace(messages=put(s.messages, finalizer.message, "gone"))
        if not s.finished or s.finalized:
            return gone
        ours = s.holder == self._name(me) and (s.claim == finalizer.claim or not self.checks_number)
        if not ours:
            return after if self.keeps_when_lost else gone
        wrongly = "" if s.hooks[s.finish] else "finalized, but the hook never ran for this finish"
        return gone._replace(finalized=True, holder=-1, expired=False, wrongly=wrongly)

    def wrong(self, s: State) -> str | None:
        return s.wrongly or None

    def done(self, s: State) -> bool:
        return s.finished and s.finalized

    def canonical(self, s: State) -> State:
        """Messages that are gone are forgotten; of claims only the order of their numbers matters."""
        named = {f.message for f in s.finalizers}
        kept = [n for n, message in enumerate(s.messages) if message != "gone" or n in named]
        new = {number: index for index, number in enumerate(kept)}
        numbers = sorted({s.claim, *(f.claim for f in s.finalizers if f.claim)})
        claims = {number: index + (numbers[0] > 0) for index, number in enumerate(numbers)}
        return s._replace(
            claim=claims[s.claim],
            messages=tuple(s.messages[n] for n in kept),
            finalizers=tuple(
                f._replace(message=new.get(f.message, -1), claim=claims.get(f.claim, 0)) for f in s.finalizers
            ),
        )


QUIET = {"expiries": 0, "crashes": 0, "losses": 0, "resends": 0}
SMALL = (
    Finalizing(resends=0, losses=0, crashes=0),
    Finalizing(reopens=0),
    Finalizing(expiries=0, losses=0, resends=0, same_name=True),
)
LARGE = (Finalizing(), Finalizing(expiries=2, crashes=2, resends=0, losses=0))
RULES = (
    Rule(
        "keeps_message",
        22,
        "The message stays until there is nothing left to do; the holder of a claim may die.",
        "nothing leads to the end",
        {"crashes": 1, "sends_again": False},
    ),
    Rule(
        "keeps_when_lost",
        22,
        "Whoever has lost its claim leaves the message.",
        "nothing leads to the end",
        {"sends_again": False, "crashes": 1, "reopens": 0, "expiries": 2},
    ),
    Rule(
        "checks_number",
        21,
        "Finalizing compares the number of the claim under the lock.",
        "the hook never ran for this finish",
        {"same_name": True, "expiries": 0},
    ),
    Rule(
        "reopening_voids",
        21,
        "Reopening a task voids its claim.",
        "the hook never ran for this finish",
    ),
    Rule(
        "numbers_rise",
        21,
        "The number of claims never falls.",
        "the hook never ran for this finish",
        {"same_name": True, "expiries": 0},
    ),
    Rule(
        "sends_again",
        22,
        "The tick sends again for what is finished, not finalized and claimed by nobody.",
        "nothing leads to the end",
        {"losses": 1},
    ),
)
