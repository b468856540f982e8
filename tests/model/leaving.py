"""Leaving: an executor deregisters while it holds steps, while the outcome of its last call is unknown, while
sweeps run.

Two tasks of one step each. Executor X registers, claims, reports, and may say good-bye or crash at any point; what
it then still holds is for the sweep. Everybody else is the move ``elsewhere``. A second model has the row of a
Celery worker, of which one process ends while the next, of the same hostname, has already begun.

Stands for ``register_executor``, ``deregister_executor``, ``claim_steps`` and ``complete_steps`` (one step each),
``recover_lost_steps`` (one receipt to a move), ``worker_heartbeat`` and ``deregister_worker``; one transaction to a
move. Any answer may be lost after its commit, and any call may come late, after its repeat or after the good-bye.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.model.rules import Base, Rule, put

NAMES = ("a", "b")


class Call(NamedTuple):
    kind: str
    number: int = 0
    step: int = 0
    fence: int = 0
    finished: tuple[int, ...] = ()


class State(NamedTuple):
    """``steps``: state, fence, whose, losses. ``row``: of X: absent, alive or lost. ``x``: off, up, leaving or gone."""

    steps: tuple[tuple[str, int, str, int], ...] = (("enqueued", 0, "", 0),) * 2
    row: str = "absent"
    receipts: tuple[tuple[int, int, int], ...] = ()
    """Call, step, fence."""
    x: str = "off"
    next: int = 1
    has: tuple[tuple[int, int, int, str], ...] = ()
    """Step, fence, call, ready or ran."""
    finished: tuple[int, ...] = ()
    open: Call | None = None
    late: tuple[Call, ...] = ()
    troubles: int = 0
    crashes: int = 0
    lives: int = 1
    died: bool = False
    """X crashed, or a row of it was left behind by a late registration or a good-bye that could not be said: to the
    database that is a death."""


@dataclass(frozen=True)
class Leaving(Base):
    troubles: int = 1
    crashes: int = 1
    # The rules.
    sweeps_absent: bool = True
    goodbye_leaves_receipts: bool = True
    goodbye_is_no_loss: bool = True
    new_uuid: bool = True

    def start(self) -> State:
        return State(troubles=self.troubles, crashes=self.crashes, lives=1 if self.new_uuid else 2)

    def _serve(self, s: State, c: Call) -> tuple[State, bool]:
        """The tables after ``c``, and whether it was refused."""
        if c.kind == "register":
            if s.row == "absent":
                return s._replace(row="alive", died=s.died or s.x == "gone"), False
            return s, s.row == "lost"
        if c.kind == "leave":
            gone = [r for r in s.receipts if r[0] not in c.finished or self._live(s, r)]
            return s._replace(row="absent", receipts=tuple(gone) if self.goodbye_leaves_receipts else ()), False
        if s.row != "alive":
            return s, True
        if c.kind == "claim":
            known = [r for r in s.receipts if r[0] == c.number]
            queued = [i for i, step in enumerate(s.steps) if step[0] == "enqueued"]
            if known or not queued:
                return s, False
            fence = s.steps[queued[0]][1] + 1
            steps = put(s.steps, queued[0], ("in_progress", fence, "X", s.steps[queued[0]][3]))
            return s._replace(steps=steps, receipts=tuple(sorted((*s.receipts, (c.number, queued[0], fence))))), False
        state, fence, whose, losses = s.steps[c.step]
        if (state, fence, whose) == ("in_progress", c.fence, "X"):
            s = s._replace(steps=put(s.steps, c.step, ("complete", fence, "X", losses)))
        return s._replace(receipts=tuple(r for r in s.receipts if r[0] not in c.finished or self._live(s, r))), False

    def _live(self, s: State, receipt: tuple[int, int, int]) -> bool:
        _, step, fence = receipt
        return s.steps[step][:3] == ("in_progress", fence, "X")

    def _forget(self, s: State) -> State:
        return s._replace(x="gone", has=(), finished=(), open=None)

    def _take(self, s: State, c: Call) -> State:
        """X gets the answer of ``c``, made now."""
        s, refused = self._serve(s._replace(open=None), c)
        if refused or c.kind == "leave":
            return self._forget(s)
        if c.kind == "register":
            return s._replace(x="up")
        if c.kind == "claim":
            got = [r for r in s.receipts if r[0] == c.number and self._live(s, r)]
            has = {(step, fence, number, "ready") for number, step, fence in got}
            return s._replace(has=tuple(sorted({*s.has, *has})))
        return s._replace(has=tuple(h for h in s.has if h[0] != c.step), finished=(*s.finished, c.number))

    def _calls(self, s: State) -> Iterator[tuple[str, Call]]:
        if s.open is not None:
            yield f"repeat {s.open.kind}", s.open
        elif s.x == "off":
            yield "register", Call("register")
        elif s.x == "up":
            if any(step[0] == "enqueued" for step in s.steps):
                yield "claim", Call("claim", s.next)
            for step, fence, number, phase in s.has:
                if phase == "ran":
                    # Each claim brings one step, so the receipt that this report finishes can be named by the next.
                    yield f"report {NAMES[step]}", Call("report", number, step, fence, s.finished)
        if s.x == "up" and (s.open is None or s.open.kind != "leave"):
            # Also when the outcome of the last call is unknown: there is no more time to find out.
            yield "leave", Call("leave", finished=s.finished)

    def moves(self, s: State) -> Iterator[tuple[str, State]]:
        for label, call in self._calls(s):
            ready = s._replace(next=s.next + 1) if label == "claim" else s
            if call.kind == "leave":
                ready = ready._replace(x="leaving", has=())
            yield label, self._take(ready, call)
            if s.troubles:
                waiting = ready._replace(open=call, troubles=s.troubles - 1)
                yield f"{label}, answer lost", self._serve(waiting, call)[0]
                yield f"{label}, late", waiting._replace(late=(*s.late, call))
        if s.x == "leaving":
            yield "give_up", self._forget(s._replace(died=True))
        for h in s.has:
            if h[3] == "ready":
                yield f"run {NAMES[h[0]]}", s._replace(has=tuple(sorted({*s.has, (*h[:3], "ran")} - {h})))
        for call in s.late:
            after = s._replace(late=tuple(c for c in s.late if c is not call))
            yield f"late {call.kind}", self._serve(after, call)[0]
        if s.crashes and s.x == "up":
            yield "crash", self._forget(s._replace(crashes=s.crashes - 1, died=True))
        if s.x == "gone" and s.lives > 1:
            yield "start_again", s._replace(x="off", lives=s.lives - 1, next=1)
        if s.row == "alive" and s.x == "gone":
            yield "mark_lost", s._replace(row="lost")
        if s.row == "lost" or (s.row == "absent" and self.sweeps_absent):
            loss = 1 if s.row == "lost" or not self.goodbye_is_no_loss else 0
            for receipt in s.receipts:
                _, step, fence = receipt
                after = s._replace(receipts=tuple(r for r in s.receipts if r != receipt))
                if self._live(s, receipt):
                    after = after._replace(steps=put(s.steps, step, ("enqueued", fence, "X", s.steps[step][3] + loss)))
                yield f"sweep {NAMES[step]}", after
        for step, (state, fence, _, losses) in enumerate(s.steps):
            if state == "enqueued":
                yield (
                    f"elsewhere {NAMES[step]}",
                    s._replace(steps=put(s.steps, step, ("complete", fence + 1, "Y", losses))),
                )

    def wrong(self, s: State) -> str | None:
        for step, (state, fence, _, losses) in enumerate(s.steps):
            if state == "in_progress" and not any(r[1:] == (step, fence) for r in s.receipts):
                return f"{NAMES[step]} is in progress without a receipt"
            if losses and not s.died:
                return f"{NAMES[step]} counts a loss although no executor died"
            if (
                state == "in_progress"
                and s.x == "up"
                and any(h[:2] == (step, fence) for h in s.has)
                and s.row != "alive"
            ):
                return f"{NAMES[step]} can be taken from X, which has it and lives"
        return None

    def done(self, s: State) -> bool:
        return all(step[0] == "complete" for step in s.steps)


class Row(NamedTuple):
    """``pid`` of the worker's row, 0 if there is none; which processes live; whether the new one has beaten last."""

    pid: int = 1
    old: bool = True
    new: bool = False
    known: bool = False


@dataclass(frozen=True)
class Workers(Base):
    by_pid: bool = True

    def start(self) -> Row:
        return Row()

    def moves(self, s: Row) -> Iterator[tuple[str, Row]]:
        if s.old:
            yield "old_beats", s._replace(pid=1, known=False)
            gone = s.pid == 1 or not self.by_pid
            yield "old_leaves", s._replace(pid=0 if gone else s.pid, old=False)
        if not s.new:
            yield "new_starts", s._replace(pid=2, new=True, known=True)
        else:
            yield "new_beats", s._replace(pid=2, known=True)

    def wrong(self, s: Row) -> str | None:
        return "the living worker's row was deleted" if s.known and s.pid != 2 else None

    def done(self, s: Row) -> bool:
        return s.new and not s.old and s.pid == 2


SMALL = (Leaving(), Workers())
LARGE = (Leaving(troubles=2),)
RULES = (
    Rule(
        "sweeps_absent",
        5,
        "Every sweep handles the receipts of executors that are absent, too.",
        "from here nothing leads to the end",
    ),
    Rule(
        "goodbye_leaves_receipts",
        29,
        "A good-bye deletes the executor's row and the receipts it names as finished; every other receipt stays, and is"
        " the next sweep's.",
        "is in progress without a receipt",
    ),
    Rule(
        "goodbye_is_no_loss",
        30,
        "Only an executor that was marked as lost costs its steps a loss. An absent one said good-bye.",
        "counts a loss although no executor died",
        kept="yes",
    ),
    Rule(
        "new_uuid",
        31,
        "Every registration takes a new uuid, also that of a process that registers again.",
        "can be taken from X, which has it and lives",
    ),
    Rule(
        "by_pid",
        32,
        "A worker's good-bye names its process: it deletes the row only if that is still the process's.",
        "the living worker's row was deleted",
        of=1,
    ),
)
