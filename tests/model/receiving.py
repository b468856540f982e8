"""Receiving: messages of tasks and steps that somebody keeps locked, for as long as that lasts.

The first model is one result that comes by message to ``process_step_results``: a reader may find the task locked,
may die with the message in its hands, or may record it; who reads it too often without success rejects it. The
second is a queue whose first steps are locked, and a claim that looks at a limited number of messages.

Stands for ``StepResultProcessor`` with ``process_step_results`` and ``queue_show_again``, and for the rounds of
``claim_steps``; one transaction to a move.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.model.explorer import Inevitable, Promise
from tests.model.rules import Base, Rule


class Message(NamedTuple):
    """``where``: queue, recorded or rejected. ``deaths``: how often a reader died of it."""

    where: str = "queue"
    reads: int = 0
    deaths: int = 0
    locked: bool = False


@dataclass(frozen=True)
class Receiving(Base):
    most_reads: int = 2
    # The rule.
    locked_is_no_read: bool = True

    def start(self) -> Message:
        return Message()

    def moves(self, s: Message) -> Iterator[tuple[str, Message]]:
        yield ("unlock" if s.locked else "lock"), s._replace(locked=not s.locked)
        if s.where != "queue":
            return
        if s.reads >= self.most_reads:
            yield "reject", s._replace(where="rejected")
            return
        yield "reader dies", s._replace(reads=s.reads + 1, deaths=s.deaths + 1)
        if not s.locked:
            yield "record", s._replace(where="recorded")
        elif not self.locked_is_no_read:
            yield "find it locked", s._replace(reads=s.reads + 1)

    def wrong(self, s: Message) -> str | None:
        if s.where == "rejected" and s.deaths < self.most_reads:
            return "a result was thrown away because its task was locked"
        return None

    def done(self, s: Message) -> bool:
        return s.where != "queue"


class Queue(NamedTuple):
    """``after``: where the next claim begins."""

    after: int = 0
    got: bool = False


@dataclass(frozen=True)
class Looking(Base):
    locked: int = 4
    looks: int = 2
    # The rule.
    goes_on_behind_locked: bool = True

    def start(self) -> Queue:
        return Queue()

    def moves(self, s: Queue) -> Iterator[tuple[str, Queue]]:
        seen = range(s.after, s.after + self.looks)
        following = s.after + self.looks if self.goes_on_behind_locked else 0
        got = self.locked in seen
        yield ("claim" if got else "claim finds all locked"), Queue(0 if got else following, s.got or got)

    def wrong(self, s: Queue) -> str | None:
        return None

    def done(self, s: Queue) -> bool:
        return True

    def promises(self) -> Sequence[Promise | Inevitable]:
        return (Inevitable("what is behind locked steps gets its turn", lambda s: s.got),)


SMALL = (Receiving(), Looking())
LARGE = (Receiving(most_reads=50), Looking(locked=500, looks=7))
RULES = (
    Rule(
        "locked_is_no_read",
        38,
        "A look that finds the task locked is not a failed receive: only readers that die with a message"
        " count against it.",
        "thrown away because its task was locked",
        kept="yes",
    ),
    Rule(
        "goes_on_behind_locked",
        39,
        "A claim whose looks were all spent on locked steps looks on behind them.",
        "gets its turn",
        of=1,
        kept="yes",
    ),
)
