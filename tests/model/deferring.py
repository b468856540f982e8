"""Deferred messages: a burst that goes out in parts, while its task is paused, resumed, cancelled and retried.

One task: a parent whose ``width`` children become ready at once, with a burst limit of one message per call. The
parent is completed by one move; children are claimed in two (the claim locks the step and reads the task, then
commits), run, and may fail, wait for a retry or be given back. Resuming takes two moves as well: it holds the task
from its first statement on.

Stands for ``advance_tasks`` and ``send_step_messages``, ``enqueue_deferred_steps``, ``claim_steps`` (one step),
``settle_outcomes``, ``release_steps``, ``pause_tasks``, ``resume_tasks``, ``cancel_tasks`` and ``retry_task``. A
``step_enqueue`` message is a cursor: which kind, and from where. Processing one is a transaction of any number of
StepEnqueuers; one that dies leaves the message where it was, which is the same as not having begun.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.model.rules import Base, Rule, put

BURST = 1
ITEMS = 2
"""Items of a map step that share a position, where the cursor names positions."""
LIVE = ("enqueued", "in_progress", "waiting")


class Child(NamedTuple):
    state: str = "pending"
    mail: int = 0
    timer: bool = False


class State(NamedTuple):
    children: tuple[Child, ...]
    task: str = "in_progress"
    parent: bool = False
    """Whether the parent is complete; until then it is the one live step."""
    active: int = 1
    cursors: tuple[tuple[str, int], ...] = ()
    """step_enqueue messages: by parent or by task, from where."""
    taken: tuple[tuple[str, int], ...] = ()
    """Without the rule: messages removed whose successors are not sent yet."""
    claim: tuple[int, bool, bool] | None = None
    """A claim under way: which child, by its timer, whether it read "paused"."""
    resuming: tuple[frozenset[int], tuple[int, ...]] | None = None
    """A resume under way: the children it has locked, and those that get a message."""
    pauses: int = 0
    cancels: int = 0
    retries: int = 0
    failures: int = 0
    waits: int = 0
    releases: int = 0


@dataclass(frozen=True)
class Deferring(Base):
    width: int = 3
    pauses: int = 1
    cancels: int = 0
    retries: int = 0
    failures: int = 0
    waits: int = 0
    releases: int = 0
    # The rules.
    enqueues_at_once: bool = True
    counts_once: bool = True
    one_transaction: bool = True
    keeps_busy_message: bool = True
    enqueues_while_paused: bool = True
    resume_locks_queued: bool = True
    resume_locks_running: bool = True
    resume_defers: bool = True
    pages_skip_gaps: bool = True
    cursor_names_item: bool = True

    def start(self) -> State:
        return State(
            (Child(),) * self.width, pauses=self.pauses, cancels=self.cancels, retries=self.retries,
            failures=self.failures, waits=self.waits, releases=self.releases,
        )  # fmt: skip

    # -- parts ----------------------------------------------------------------------------------------------------

    def _mail(self, s: State, index: int, more: int) -> State:
        child = s.children[index]
        return s._replace(children=put(s.children, index, child._replace(mail=max(0, min(2, child.mail + more)))))

    def _send(self, s: State, indexes: tuple[int, ...], kind: str) -> State:
        for index in indexes[:BURST]:
            s = self._mail(s, index, 1)
        if len(indexes) > BURST:
            s = s._replace(cursors=tuple(sorted({*s.cursors, (kind, indexes[BURST])})))
        return s

    def _state(self, s: State, index: int, state: str, *, timer: bool = False) -> State:
        return s._replace(children=put(s.children, index, s.children[index]._replace(state=state, timer=timer)))

    def _left(self, s: State, count: int = 1) -> State:
        """So many steps left the live states; the task may be over."""
        s = s._replace(active=s.active - count)
        if s.active == 0:
            failed = any(child.state == "error" for child in s.children)
            s = s._replace(task="error" if failed else "complete")
        return s

    # -- moves ----------------------------------------------------------------------------------------------------

    def moves(self, s: State) -> Iterator[tuple[str, State]]:
        yield from self._claims(s)
        for index, child in enumerate(s.children):
            if child.state == "in_progress" and s.releases and (s.resuming is None or index not in s.resuming[0]):
                after = self._mail(self._state(s, index, "enqueued"), index, 1)
                yield f"release {index}", after._replace(releases=s.releases - 1)
        if s.resuming is not None:
            after = s._replace(task="in_progress", resuming=None)
            if self.resume_defers:
                after = self._send(after, s.resuming[1], "task")
            else:
                for index in s.resuming[1][:BURST]:
                    after = self._mail(after, index, 1)
            yield "resume commits", after
            return  # it has the task
        yield from self._outcomes(s)
        yield from self._enqueuers(s)
        yield from self._operator(s)

    def _claims(self, s: State) -> Iterator[tuple[str, State]]:
        if s.claim is not None:
            index, by_timer, paused = s.claim
            child, s = s.children[index], s._replace(claim=None)
            after = self._mail(s, index, 0 if by_timer else -1)
            fits = child.state in (("enqueued", "waiting") if by_timer else ("enqueued",))
            if paused or not fits:
                if by_timer:
                    after = self._state(after, index, child.state)
            else:
                after = self._state(after, index, "in_progress")
            yield f"claim {index} commits", after
            return
        for index, child in enumerate(s.children):
            if s.resuming is not None and index in s.resuming[0]:
                continue
            if child.mail:
                yield f"claim {index}", s._replace(claim=(index, False, s.task == "paused"))
            if child.timer:
                yield f"claim {index} by timer", s._replace(claim=(index, True, s.task == "paused"))

    def _outcomes(self, s: State) -> Iterator[tuple[str, State]]:
        if not s.parent and s.task in ("in_progress", "paused"):
            now = s.children if self.enqueues_at_once else s.children[:BURST]
            if s.task == "paused" and not self.enqueues_while_paused:
                yield "complete parent", self._left(s._replace(parent=True))
            else:
                children = tuple(child._replace(state="enqueued") for child in now) + s.children[len(now) :]
                after = s._replace(parent=True, children=children, active=s.active + len(now) - 1)
                if s.task != "paused":
                    after = self._send(after, tuple(range(self.width)), "parent")
                yield "complete parent", after
        for index, child in enumerate(s.children):
            if child.state != "in_progress" or (s.claim and s.claim[0] == index):
                continue
            yield f"complete {index}", self._left(self._state(s, index, "complete"))
            if s.failures:
                after = self._left(self._state(s, index, "error"))
                yield f"fail {index}", after._replace(failures=s.failures - 1)
            if s.waits:
                yield f"wait {index}", self._state(s, index, "waiting", timer=True)._replace(waits=s.waits - 1)

    def _enqueuers(self, s: State) -> Iterator[tuple[str, State]]:
        for cursor in s.cursors:
            kind, start = cursor
            rest = s._replace(cursors=tuple(c for c in s.cursors if c != cursor))
            label = f"enqueue from {start} of {kind}"
            if not self.keeps_busy_message:  # a user's transaction has the task
                yield f"{label}, task locked", rest
            if s.task != "in_progress":
                yield label, rest
            elif self.one_transaction:
                yield label, self._page(rest, kind, start)
            elif not s.taken:
                yield f"{label}: remove", rest._replace(taken=(cursor,))
        for kind, start in s.taken:
            yield f"enqueue from {start} of {kind}: send", self._page(s._replace(taken=()), kind, start)
            yield "enqueuer dies", s._replace(taken=())

    def _page(self, s: State, kind: str, start: int) -> State:
        def due(index: int) -> bool:
            child = s.children[index]
            return child.state == "enqueued" and not child.timer

        if not self.enqueues_at_once:
            for index in range(start, min(start + BURST, self.width)):
                if s.children[index].state == "pending":
                    s = self._state(s, index, "enqueued")._replace(active=s.active + 1)
        if kind == "parent":
            page = [index for index in range(start, min(start + BURST, self.width)) if due(index)]
            following = start + BURST if start + BURST < self.width else None
        elif self.pages_skip_gaps:
            page = [index for index in range(start, self.width) if due(index)][:BURST]
            following = page[-1] + 1 if len(page) == BURST else None
            if following is not None and not self.cursor_names_item:
                following += following % ITEMS  # the next position
        else:
            page = [index for index in range(start, min(start + BURST, self.width)) if due(index)]
            following = start + BURST if len(page) == BURST else None
        for index in page:
            s = self._mail(s, index, 1)
            if not self.counts_once:
                s = s._replace(active=s.active + 1)
        if following is not None:
            s = s._replace(cursors=tuple(sorted({*s.cursors, (kind, following)})))
        return s

    def _operator(self, s: State) -> Iterator[tuple[str, State]]:
        if s.task == "in_progress" and s.pauses:
            yield "pause", s._replace(task="paused", pauses=s.pauses - 1)
        if s.task == "paused":
            lock: set[str] = set()
            if self.resume_locks_queued:
                lock.update(("enqueued", "waiting"))
            if self.resume_locks_running:
                lock.add("in_progress")
            locked = frozenset(index for index, child in enumerate(s.children) if child.state in lock)
            if s.claim is None or s.claim[0] not in locked:  # else it waits for that claim
                queued = tuple(i for i, child in enumerate(s.children) if child.state == "enqueued" and not child.timer)
                after = s._replace(resuming=(locked, queued))
                for index, child in enumerate(s.children):
                    if child.state == "waiting" and not child.timer:
                        after = self._state(after, index, "waiting", timer=True)
                yield "resume", after
        if s.task in ("in_progress", "paused") and s.cancels and s.claim is None:
            children = tuple(
                child if child.state in ("complete", "error") else child._replace(state="cancelled", timer=False)
                for child in s.children
            )
            yield (
                "cancel",
                s._replace(children=children, parent=True, task="cancelled", active=0, cancels=s.cancels - 1),
            )
        if s.task == "error" and s.retries and s.claim is None:
            again = tuple(index for index, child in enumerate(s.children) if child.state == "error")
            after = s._replace(task="in_progress", active=len(again), retries=s.retries - 1)
            for index in again:
                after = self._state(after, index, "enqueued")
            yield "retry", self._send(after, again, "task")

    # -- what must hold -------------------------------------------------------------------------------------------

    def wrong(self, s: State) -> str | None:
        live = sum(child.state in LIVE for child in s.children) + (not s.parent)
        if s.task in ("in_progress", "paused"):
            if s.active != live:
                return f"active is {s.active}, but {live} steps live"
        elif live:
            return f"the task is {s.task}, but a step of it lives"
        elif s.task == "complete" and any(child.state != "complete" for child in s.children):
            return "the task is complete, but a step never ran"
        if s.task == "in_progress" and s.claim is None:
            for index, child in enumerate(s.children):
                covered = any(start <= index for _, start in (*s.cursors, *s.taken))
                if child.state == "enqueued" and not child.mail and not child.timer and not covered:
                    return f"nothing will start {index}"
                if child.state == "waiting" and not child.timer:
                    return f"nothing will start {index}"
        return None

    def done(self, s: State) -> bool:
        return s.task in ("complete", "cancelled", "error")


SMALL = (
    Deferring(),
    Deferring(width=2, releases=1),
    Deferring(width=2, waits=1),
    Deferring(width=3, pauses=0, failures=3, retries=1),
)
LARGE = (Deferring(width=3, pauses=2, cancels=1, releases=1, waits=1), Deferring(failures=3, retries=1, releases=1))
RULES = (
    Rule(
        "enqueues_at_once",
        10,
        "All dependents that became ready are enqueued and counted at once; only their messages may come later.",
        "but a step never ran",
    ),
    Rule(
        "counts_once",
        10,
        "The StepEnqueuer sends messages, and touches no counter.",
        "steps live",
    ),
    Rule(
        "one_transaction",
        33,
        "The StepEnqueuer removes its message and sends the steps' and its successor in one transaction.",
        "nothing will start",
    ),
    Rule(
        "keeps_busy_message",
        14,
        "A `step_enqueue` message whose task is locked stays.",
        "nothing will start",
    ),
    Rule(
        "enqueues_while_paused",
        15,
        "In a paused task ready dependents become enqueued, without a message.",
        "but a step never ran",
    ),
    Rule(
        "resume_locks_queued",
        16,
        "Resume locks the queued and the waiting steps before it looks at them: a claim that still reads `paused` drops"
        " their messages and timers.",
        "nothing will start",
        {"width": 2, "waits": 1},
    ),
    Rule(
        "resume_locks_running",
        34,
        "Resume locks the running steps, too: one that is released after the look gets its message only from"
        " the release,"
        " and a claim that still reads `paused` drops it.",
        "nothing will start",
        {"releases": 1, "width": 2},
    ),
    Rule(
        "resume_defers",
        35,
        "Resume and retry keep to the burst limit as everybody does: what they do not send, they defer.",
        "nothing will start",
    ),
    Rule(
        "pages_skip_gaps",
        36,
        "A deferred page of a whole task ends where no step is left, not where a page had less than it could.",
        "nothing will start",
        {"width": 4},
    ),
    Rule(
        "cursor_names_item",
        37,
        "Where steps share a position (items of a map step), a cursor names the item too; the next position"
        " after a full"
        " page leaves its other items out.",
        "nothing will start",
        {"width": 4},
        kept="design",
    ),
)
