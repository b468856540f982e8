"""Batches: outcomes of several tasks in one call, tasks that are locked, values that cannot be stored, receipts.

Two tasks: ``A`` with step ``a`` and its dependent ``c``, ``B`` with the step ``b``. One executor, X, is modelled
with its ledger of calls, its completer and what it set aside; everybody else is the move ``elsewhere``, which runs a
queued step at once. A user's transaction may lock ``A``. The result of ``b`` may be one that the server refuses.

Stands for ``claim_steps``, ``complete_steps`` (``settle_outcomes``, ``advance_tasks``), ``release_steps``,
``delete_finished_receipts``, ``held_by_receipt``, ``check_executor``, ``heartbeat`` and ``recover_lost_steps``, one
transaction to a move; and for ``CallLedger``, ``submit`` (bisection), ``Completer`` and ``SetAside``. An answer may
be lost after the commit, and a call may be late: begun by the server, holding its locks, when its repeat arrives, or
not begun at all. X may crash at any point, and may be declared lost while it lives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.model.explorer import Inevitable, Promise
from tests.model.rules import Rule, put

NAMES = ("a", "b", "c")
TASK = (0, 1, 0)
PARENT = (None, None, 0)
CHILD = (2, None, None)
A = 0

Keys = tuple[tuple[int, int], ...]
"""Steps with their fences."""


class Db(NamedTuple):
    """The tables. ``steps``: state, fence, whose; ``nobodys``: what the last heartbeat said of X's calls."""

    steps: tuple[tuple[str, int, str], ...] = (("enqueued", 0, ""), ("enqueued", 0, ""), ("pending", 0, ""))
    mail: frozenset[int] = frozenset((0, 1))
    receipts: tuple[tuple[int, Keys], ...] = ()
    alive: bool = True
    held: tuple[int, ...] = ()
    next: int = 1


class Outcome(NamedTuple):
    """A step that X holds, and what became of it; phase: ready, ok, bad (the server refuses it) or err."""

    step: int
    fence: int
    call: int
    phase: str
    aside: bool = False


class Call(NamedTuple):
    """A call whose outcome X does not know, or one that is late on the server; ``begun``: it holds its locks."""

    kind: str
    number: int
    finished: tuple[int, ...]
    outcomes: tuple[Outcome, ...] = ()
    begun: bool = False
    steps: frozenset[int] = frozenset()
    tasks: frozenset[int] = frozenset()


class State(NamedTuple):
    db: Db = Db()
    up: bool = True
    next: int = 1
    ledger: tuple[tuple[int, int], ...] = ()
    """Held calls: number, steps not settled, -1 while the outcome of the call is unknown."""
    finished: tuple[int, ...] = ()
    has: tuple[Outcome, ...] = ()
    plan: tuple[tuple[Outcome, ...], ...] = ()
    """Halves still to be sent."""
    open: tuple[Call, ...] = ()
    late: tuple[Call, ...] = ()
    locked: int = 0
    """0: not yet, 1: a user's transaction holds task A, 2: no longer."""
    troubles: int = 0
    crashes: int = 0
    releases: int = 0


@dataclass(frozen=True)
class Batches:
    troubles: int = 1
    crashes: int = 1
    releases: int = 0
    locks: int = 1
    bad: bool = True
    limit: int = 3
    """Most steps of one claim."""
    continues: bool = True
    # The rules.
    keeps_live_receipts: bool = True
    busy_stays_held: bool = True
    sets_aside: bool = True
    bisects: bool = True
    number_per_half: bool = True
    keeps_receipt_of_skipped: bool = True
    held_from_allotment: bool = True
    names_all_held: bool = True
    sweeps_past_skipped: bool = True

    def start(self) -> State:
        return State(
            troubles=self.troubles, crashes=self.crashes, releases=self.releases, locked=0 if self.locks else 2
        )

    # -- the server ---------------------------------------------------------------------------------------------

    def _nobodys(self, db: Db, number: int) -> bool:
        """Whether the last heartbeat says that X waits for nothing under this number."""
        if self.names_all_held:
            return number < db.next and number not in db.held
        return number < min(db.held, default=db.next)

    def _drop(self, db: Db, numbers: tuple[int, ...]) -> Db:
        kept = tuple(
            (number, keys)
            for number, keys in db.receipts
            if number not in numbers or (self.keeps_live_receipts and self._live(db, keys))
        )
        return db._replace(receipts=kept)

    def _live(self, db: Db, keys: Keys) -> Keys:
        return tuple((s, f) for s, f in keys if db.steps[s] == ("in_progress", f, "X"))

    def _claim(self, db: Db, call: Call, blocked: frozenset[int]) -> tuple[Db, Keys]:
        db = self._drop(db, call.finished)
        known = dict(db.receipts)
        take = [s for s in sorted(db.mail - blocked) if db.steps[s][0] == "enqueued"][: self.limit]
        if call.number in known or not take:
            return db, self._live(db, known.get(call.number, ()))
        keys = tuple((s, db.steps[s][1] + 1) for s in take)
        steps = db.steps
        for s, fence in keys:
            steps = put(steps, s, ("in_progress", fence, "X"))
        receipts = tuple(sorted((*db.receipts, (call.number, keys))))
        return db._replace(steps=steps, mail=db.mail - set(take), receipts=receipts), keys

    def _complete(self, db: Db, call: Call, busy: frozenset[int]) -> tuple[Db, tuple[str, ...], Keys]:
        answers = []
        go_on: int | None = None
        for o in call.outcomes:
            state, fence, whose = db.steps[o.step]
            ending = "complete" if o.phase == "ok" else "error"
            if TASK[o.step] in busy:
                answers.append("busy")
            elif (state, fence, whose) == ("in_progress", o.fence, "X"):
                answers.append("accepted")
                db = db._replace(steps=put(db.steps, o.step, (ending, fence, "X")))
                child = CHILD[o.step]
                if child is not None and ending == "complete":
                    go_on = child
            else:
                answers.append("accepted" if (state, fence, whose) == (ending, o.fence, "X") else "stale")
        known = dict(db.receipts)
        keys: Keys = ()
        if go_on is not None:
            if self.continues and call.kind == "report" and call.number not in known:
                keys = ((go_on, 1),)
                receipts = tuple(sorted((*db.receipts, (call.number, keys))))
                db = db._replace(steps=put(db.steps, go_on, ("in_progress", 1, "X")), receipts=receipts)
            else:
                db = db._replace(steps=put(db.steps, go_on, ("enqueued", 0, "")), mail=db.mail | {go_on})
        if not keys:
            keys = self._live(db, known.get(call.number, ()))
        return self._drop(db, call.finished), tuple(answers), keys

    def _busy(self, s: State) -> frozenset[int]:
        """Tasks that somebody else has locked."""
        tasks = frozenset(task for call in s.late for task in call.tasks)
        return tasks | {A} if s.locked == 1 else tasks

    def _blocked(self, s: State) -> frozenset[int]:
        return frozenset(step for call in s.late for step in call.steps)

    # -- the executor ---------------------------------------------------------------------------------------------

    def _settle(self, s: State, number: int) -> State:
        ledger = dict(s.ledger)
        if ledger.get(number, -1) < 0:
            return s
        ledger[number] -= 1
        finished = s.finished
        if not ledger[number]:
            del ledger[number]
            finished = (*finished, number)
        return s._replace(ledger=tuple(sorted(ledger.items())), finished=finished)

    def _answered(self, s: State, call: Call, keys: Keys) -> State:
        ledger = dict(s.ledger)
        ledger.pop(call.number, None)
        if keys:
            ledger[call.number] = len(keys)
        new = tuple(Outcome(step, fence, call.number, "ready") for step, fence in keys)
        return s._replace(ledger=tuple(sorted(ledger.items())), has=tuple(sorted((*s.has, *new))))

    def _take(self, s: State, call: Call) -> State:
        """X gets the answer of ``call``, made now."""
        s = s._replace(open=tuple(c for c in s.open if c.number != call.number or c.kind != call.kind))
        if not s.db.alive:
            return s._replace(up=False, ledger=(), finished=(), has=(), plan=(), open=())
        if call.kind == "claim":
            db, keys = self._claim(s.db, call, self._blocked(s))
            return self._answered(s._replace(db=db), call, keys)
        if any(o.phase == "bad" for o in call.outcomes):
            return self._refused(s, call)
        db, answers, keys = self._complete(s.db, call, self._busy(s))
        s = self._answered(s._replace(db=db), call, keys)
        for o, answer in zip(call.outcomes, answers, strict=True):
            left = tuple(h for h in s.has if h != o)
            if answer == "busy":
                s = s._replace(has=tuple(sorted((*left, o._replace(aside=True)))))
                if self.busy_stays_held:
                    continue
            else:
                s = s._replace(has=left)
            s = self._settle(s, o.call)
        return s

    def _refused(self, s: State, call: Call) -> State:
        """The server rolled the call back because of a value in it."""
        ledger = tuple((n, count) for n, count in s.ledger if n != call.number)
        s = s._replace(ledger=ledger, finished=(*s.finished, *call.finished))
        if not self.bisects:
            return s
        if len(call.outcomes) == 1:
            (o,) = call.outcomes
            replaced = o._replace(phase="err")
            return s._replace(
                has=tuple(sorted(replaced if h == o else h for h in s.has)),
                plan=((replaced,), *s.plan) if not o.aside else s.plan,
            )
        middle = len(call.outcomes) // 2
        s = s._replace(plan=(call.outcomes[:middle], call.outcomes[middle:], *s.plan))
        return s if self.number_per_half else s._replace(next=call.number)

    def _calls(self, s: State) -> Iterator[tuple[str, State, Call]]:
        """Calls that X could make now, with the ledger after their allotment; and repeats of open ones."""
        for call in s.open:
            yield f"repeat {call.kind}", s, call
        kinds = {call.kind for call in s.open}
        after = s._replace(
            next=s.next + 1, ledger=(*s.ledger, (s.next, -1)) if self.held_from_allotment else s.ledger, finished=()
        )
        if "claim" not in kinds and s.db.mail:
            yield "claim", after, Call("claim", s.next, s.finished)
        batch = s.plan[0] if s.plan else tuple(o for o in s.has if o.phase in ("ok", "bad", "err") and not o.aside)
        if "report" not in kinds and batch:
            if not self.sets_aside and any(TASK[o.step] in self._busy(s) for o in batch):
                return
            if s.plan and not self.number_per_half and len(s.plan) == 1:
                after = after._replace(next=max(after.next, s.next + 1))
            elif s.plan and not self.number_per_half:
                after = after._replace(next=s.next)
            yield "report", after._replace(plan=s.plan[1:]), Call("report", s.next, s.finished, batch)
        aside = tuple(o for o in s.has if o.aside)
        for task in {TASK[o.step] for o in aside} - self._busy(s):
            if "aside" not in kinds:
                batch = tuple(o for o in aside if TASK[o.step] == task)
                yield "report_aside", after, Call("aside", s.next, s.finished, batch)

    def _client(self, s: State) -> Iterator[tuple[str, State]]:
        for label, ready, call in self._calls(s):
            what = label if call.kind == "claim" else f"{label} {'+'.join(NAMES[o.step] for o in call.outcomes)}"
            yield what, self._take(ready, call)
            if not s.troubles or not s.db.alive:
                continue
            waiting = ready._replace(
                troubles=s.troubles - 1, open=ready.open if call in ready.open else (*ready.open, call)
            )
            if not self.held_from_allotment:
                waiting = waiting._replace(ledger=tuple((n, c) for n, c in waiting.ledger if n != call.number))
            bad = any(o.phase == "bad" for o in call.outcomes)
            if not bad:
                yield f"{what}, answer lost", waiting._replace(db=self._serve(s, call))
                yield f"{what}, late", waiting._replace(late=(*s.late, call))
        for o in s.has:
            rest = tuple(h for h in s.has if h != o)
            if o.phase == "ready":
                phase = "bad" if o.step == 1 and self.bad else "ok"
                yield f"run {NAMES[o.step]}", s._replace(has=tuple(sorted((*rest, o._replace(phase=phase)))))
                if s.releases and s.db.alive:
                    db = s.db
                    if db.steps[o.step] == ("in_progress", o.fence, "X"):
                        steps = put(db.steps, o.step, ("enqueued", o.fence, "X"))
                        db = db._replace(steps=steps, mail=db.mail | {o.step})
                    db = self._drop(db, s.finished)
                    after = s._replace(db=db, has=rest, finished=(), releases=s.releases - 1)
                    yield f"release {NAMES[o.step]}", self._settle(after, o.call)
        if s.db.alive:
            held = tuple(number for number, _ in s.ledger)
            if (held, s.next) != (s.db.held, s.db.next):
                yield "heartbeat", s._replace(db=s.db._replace(held=held, next=s.next))
        if s.crashes:
            yield "crash", s._replace(crashes=s.crashes - 1, up=False, ledger=(), finished=(), has=(), plan=(), open=())

    # -- what happens ---------------------------------------------------------------------------------------------

    def _serve(self, s: State, call: Call, *, begun: bool = False) -> Db:
        """The tables after a call whose answer reaches nobody."""
        if not begun and (not s.db.alive or self._nobodys(s.db, call.number)):
            return s.db
        others = s._replace(late=tuple(c for c in s.late if c is not call))
        if call.kind == "claim":
            mine = frozenset(range(3)) - call.steps if begun else frozenset()
            return self._claim(s.db, call, self._blocked(others) | mine)[0]
        mine = frozenset((0, 1)) - call.tasks if begun else frozenset()
        return self._complete(s.db, call, self._busy(others if begun else s) | mine)[0]

    def moves(self, s: State) -> Iterator[tuple[str, State]]:
        if s.up:
            yield from self._client(s)
        busy, blocked = self._busy(s), self._blocked(s)
        for call in s.late:
            rest = tuple(c for c in s.late if c is not call)
            if call.begun:
                yield f"late {call.kind} commits", s._replace(db=self._serve(s, call, begun=True), late=rest)
                continue
            yield f"late {call.kind} never begins", s._replace(late=rest)
            if s.db.alive and not self._nobodys(s.db, call.number):
                if call.kind == "claim":
                    begun = call._replace(begun=True, steps=frozenset(sorted(s.db.mail - blocked)[: self.limit]))
                else:
                    begun = call._replace(begun=True, tasks=frozenset(TASK[o.step] for o in call.outcomes) - busy)
                yield f"late {call.kind} begins", s._replace(late=(*rest, begun))
        for step in sorted(s.db.mail - blocked):
            if s.db.steps[step][0] == "enqueued" and TASK[step] not in busy:
                steps = put(s.db.steps, step, ("complete", s.db.steps[step][1] + 1, "Y"))
                mail = s.db.mail - {step}
                child = CHILD[step]
                if child is not None:
                    steps, mail = put(steps, child, ("enqueued", 0, "")), mail | {child}
                yield f"elsewhere {NAMES[step]}", s._replace(db=s.db._replace(steps=steps, mail=mail))
        if s.locked == 0 and A not in busy:
            yield "lock A", s._replace(locked=1)
        if s.locked == 1:
            yield "unlock A", s._replace(locked=2)
        if s.db.alive and not s.up:
            yield "mark_lost", s._replace(db=s.db._replace(alive=False))
        if s.db.alive and s.up and s.crashes:
            yield "mark_lost_alive", s._replace(db=s.db._replace(alive=False), crashes=s.crashes - 1)
        yield from self._sweep(s, busy)

    def _sweep(self, s: State, busy: frozenset[int]) -> Iterator[tuple[str, State]]:
        due = [r for r in s.db.receipts if not s.db.alive or self._nobodys(s.db, r[0])]
        if not self.sweeps_past_skipped:
            due = due[:1]
        for number, keys in due:
            db, skipped = s.db, False
            for step, fence in self._live(db, keys):
                if TASK[step] in busy:
                    skipped = True
                    continue
                steps = put(db.steps, step, ("enqueued", fence, "X"))
                db = db._replace(steps=steps, mail=db.mail | {step})
            if not skipped or not self.keeps_receipt_of_skipped:
                db = db._replace(receipts=tuple(r for r in db.receipts if r[0] != number))
            if db != s.db:
                yield f"sweep {'+'.join(NAMES[step] for step, _ in keys)}", s._replace(db=db)

    # -- what must hold -------------------------------------------------------------------------------------------

    def wrong(self, s: State) -> str | None:
        for step, (state, fence, _) in enumerate(s.db.steps):
            mine = [number for number, keys in s.db.receipts if (step, fence) in keys]
            if state == "in_progress" and not mine:
                return f"{NAMES[step]} is in progress without a receipt"
            has = s.up and s.db.alive and any((o.step, o.fence) == (step, fence) for o in s.has)
            if state == "in_progress" and has and all(self._nobodys(s.db, number) for number in mine):
                return f"{NAMES[step]} can be taken from X, which has it"
            if state == "enqueued" and step not in s.db.mail:
                return f"{NAMES[step]} is enqueued without a message"
        keys = [(o.step, o.fence) for o in s.has]
        if len(keys) != len(set(keys)):
            return "X has a step twice"
        return None

    def done(self, s: State) -> bool:
        return all(state in ("complete", "error") for state, _, _ in s.db.steps[:2]) and (
            s.db.steps[2][0] in ("complete", "error") or s.db.steps[0][0] == "error"
        )

    def promises(self) -> Sequence[Promise | Inevitable]:
        def over(*steps: int, unless_lost: bool = False) -> Callable[[State], bool]:
            return lambda s: (
                all(s.db.steps[step][0] in ("complete", "error") for step in steps)
                or (unless_lost and not (s.up and s.db.alive))
            )

        return (
            Promise("a task that somebody keeps locked delays itself alone", over(1), frozenset({"unlock"})),
            Promise(
                "a value that cannot be stored harms its own step alone",
                over(0, 1, unless_lost=True),
                frozenset({"crash", "mark_lost_alive"}),
            ),
            Promise(
                "no step waits for the handler of another",
                over(1),
                frozenset({"run a", "run c", "crash", "mark_lost_alive"}),
            ),
        )

    def canonical(self, s: State) -> State:
        numbers = {n for n, _ in s.ledger} | {n for n, _ in s.db.receipts} | {o.call for o in s.has} | {s.next}
        numbers.update(s.finished)
        for call in (*s.open, *s.late):
            numbers.add(call.number)
            numbers.update(call.finished)
            numbers.update(o.call for o in call.outcomes)
        for half in s.plan:
            numbers.update(o.call for o in half)
        held = tuple(n for n in s.db.held if n in numbers)
        numbers.add(s.db.next)
        new = {number: index for index, number in enumerate(sorted(numbers), 1)}
        if len(numbers) == max(numbers) and held == s.db.held:
            return s

        def call_(c: Call) -> Call:
            return c._replace(
                number=new[c.number],
                finished=tuple(new[n] for n in c.finished),
                outcomes=tuple(o._replace(call=new[o.call]) for o in c.outcomes),
            )

        return s._replace(
            next=new[s.next],
            ledger=tuple((new[n], count) for n, count in s.ledger),
            finished=tuple(sorted(new[n] for n in s.finished)),
            has=tuple(sorted(o._replace(call=new[o.call]) for o in s.has)),
            plan=tuple(tuple(o._replace(call=new[o.call]) for o in half) for half in s.plan),
            open=tuple(call_(c) for c in s.open),
            late=tuple(call_(c) for c in s.late),
            db=s.db._replace(
                receipts=tuple((new[n], keys) for n, keys in s.db.receipts),
                held=tuple(new[n] for n in held),
                next=new[s.db.next],
            ),
        )


CRASHES = Batches(troubles=0)
TROUBLES = Batches(crashes=0, locks=0, bad=False)
ONE_BY_ONE = Batches(crashes=0, locks=0, bad=False, limit=1)
SMALL = (CRASHES, TROUBLES, ONE_BY_ONE)
LARGE = (Batches(), Batches(troubles=2, crashes=0, locks=0, limit=1, continues=False), Batches(troubles=0, releases=1))

QUIET = {"troubles": 0, "crashes": 0}
RULES = (
    Rule(
        "keeps_live_receipts",
        4,
        "A receipt that is named as finished is kept while one of its steps is in progress under its fence.",
        "c is in progress without a receipt",
        {"troubles": 2, "crashes": 0, "locks": 0, "bad": False, "limit": 1, "continues": False},
    ),
    Rule(
        "keeps_receipt_of_skipped",
        5,
        "A sweep keeps the receipt of any step that it had to skip.",
        "a is in progress without a receipt",
    ),
    Rule(
        "held_from_allotment",
        3,
        "A call counts as held from its allotment on, not from its answer.",
        "a can be taken from X, which has it",
        {"troubles": 1, "crashes": 0},
    ),
    Rule(
        "busy_stays_held",
        23,
        "An outcome that was answered `busy` is not settled: its call stays held, its receipt is not named, until the"
        " outcome was recorded or refused.",
        "a can be taken from X, which has it",
    ),
    Rule(
        "sets_aside",
        24,
        "Outcomes of a task that somebody else has locked are set aside, out of the batch, and tried again"
        " by themselves,"
        " one task per call; nothing waits behind them.",
        "a task that somebody keeps locked",
        QUIET,
    ),
    Rule(
        "bisects",
        25,
        "A batch that the server refuses for a value in it is halved until the value is alone; that one"
        " becomes an error"
        " of its step.",
        "from here nothing leads to the end",
        QUIET,
    ),
    Rule(
        "number_per_half",
        26,
        "Each half is a call of its own, with a new number: a number stands for one set of outcomes, and a repeat only"
        " repeats.",
        "c can be taken from X, which has it",
        QUIET,
    ),
    Rule(
        "names_all_held",
        27,
        "A heartbeat names every call that is held, and the next number; the receipt of any other number below that is"
        " nobody's. The oldest held call alone does not tell.",
        "no step waits for the handler of another",
        {"troubles": 1, "crashes": 0, "locks": 0, "bad": False, "limit": 1},
        kept="yes",
    ),
    Rule(
        "sweeps_past_skipped",
        28,
        "Receipts that a sweep had to skip do not stand in front of the others in the next one.",
        "a task that somebody keeps locked",
        {"troubles": 0, "bad": False, "limit": 1},
        kept="yes",
    ),
)
