"""The engine in a few lines of Python: what every call must answer, and what must be in the tables then.

One session after another; time is the engine's movable clock, in seconds. What a claim takes is not foretold (any of
what is due will do) but judged; everything else is foretold exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SATISFIED = frozenset({"complete", "resolved_manually"})
ENDED = SATISFIED | {"error", "cancelled"}
LIVE = frozenset({"enqueued", "in_progress", "waiting_for_retry"})
TERMINAL = frozenset({"complete", "error", "cancelled", "resolved_manually"})
CLOSED = TERMINAL - {"error"}
MAX_ATTEMPTS, MAX_LOSSES = 2, 3
RETRY_SECONDS, DEADLINE_SECONDS, CLAIM_SECONDS = 100.0, 100.0, 100.0

Place = tuple[str, int]
"""A step: its task and position."""
Hold = tuple[str, int, int]
"""A step under one fence."""
Receipt = tuple[str, int]
"""An executor and the number of its call."""


@dataclass(frozen=True)
class Workflow:
    """What steps there are: the parents of each, and which are special."""

    parents: tuple[tuple[int, ...], ...]
    delegated: frozenset[int] = frozenset()
    retryable: bool = True
    hooks: bool = False
    checked: bool = False

    def children(self, position: int) -> list[int]:
        return [child for child, parents in enumerate(self.parents) if position in parents]


WORKFLOWS: dict[str, Workflow] = {
    "chain": Workflow(((), (0,), (1,)), hooks=True),
    "join": Workflow(((), (), (), (0, 1), (0, 1, 2), (3, 4))),
    "once": Workflow(((), (0,)), retryable=False),
    "elsewhere": Workflow(((), (), (0, 1)), delegated=frozenset({0, 2}), hooks=True),
    "checked": Workflow(((), (0,), (0,)), checked=True, hooks=True),
}


@dataclass
class Step:
    unmet: int
    state: str = "pending"
    fence: int = 0
    attempts: int = 0
    losses: int = 0
    executor: str | None = None
    marked: bool = False
    timer: tuple[str, float] | None = None
    """Its kind, and when it is due."""
    message: bool = False
    """Whether a message of it lies on its queue (of a paused task: unknown)."""


@dataclass
class Claim:
    by: str
    until: float


@dataclass
class Task:
    uuid: str
    workflow: Workflow
    steps: list[Step]
    state: str = "pending"
    admitted: bool = False
    checked: bool = True
    scheduled: float | None = None
    claim: Claim | None = None
    finish_no: int = 1
    claim_no: int = 0
    finalization: Claim | None = None
    finalized: bool = False
    deferred: bool = False
    """Whether a step_enqueue message is on its way, for the steps that have none of their own."""

    @property
    def active(self) -> int:
        return sum(step.state in LIVE for step in self.steps)

    @property
    def open(self) -> int:
        return sum(step.state not in ENDED for step in self.steps)

    @property
    def failed(self) -> int:
        return sum(step.state == "error" for step in self.steps)


@dataclass
class Executor:
    uuid: str
    oldest: int = 1
    next_call: int = 0
    held_calls: frozenset[int] = frozenset()
    """Of the calls below the next one; nothing is known of them while that is 0."""
    silent: bool = False
    lost: bool = False
    gone: bool = False

    def dropped(self, call: int) -> bool:
        """Whether it said that it no longer holds what came of a call."""
        return call < self.oldest or (call < self.next_call and call not in self.held_calls)


class Refused(Exception):
    """The call must be refused with this SQLSTATE."""


@dataclass
class Model:
    now: float = 0.0
    tasks: dict[str, Task] = field(default_factory=dict)
    executors: dict[str, Executor] = field(default_factory=dict)
    receipts: dict[Receipt, list[Hold]] = field(default_factory=dict)
    locked: set[str] = field(default_factory=set)
    """Tasks that another session's open transaction has locked."""
    locked_steps: set[Place] = field(default_factory=set)

    def step(self, place: Place) -> Step:
        return self.tasks[place[0]].steps[place[1]]

    # -- tasks ----------------------------------------------------------------------------------------------------

    def create(self, uuid: str, workflow: Workflow, delay: float) -> Task:
        task = Task(uuid, workflow, [Step(len(parents)) for parents in workflow.parents])
        task.checked = not workflow.checked
        task.scheduled = self.now + delay if delay else None
        self.tasks[uuid] = task
        if task.checked and not delay:
            self._admit(task)
        return task

    def _admit(self, task: Task) -> None:
        task.state, task.admitted, task.checked, task.claim = "in_progress", True, True, None
        for step in task.steps:
            if step.state == "pending" and step.unmet == 0:
                step.state, step.message = "enqueued", True
        self._end_if_idle(task)

    def _end_if_idle(self, task: Task) -> None:
        if task.active == 0 and task.admitted and task.state not in TERMINAL:
            self._end(task, "error" if task.open or task.failed else "complete")

    def _end(self, task: Task, state: str) -> None:
        task.state, task.claim, task.finalized = state, None, not task.workflow.hooks

    def _reopen(self, task: Task) -> None:
        task.state = "in_progress" if task.admitted else "pending"
        task.checked = task.checked and task.admitted
        task.finish_no += 1
        task.finalized, task.finalization, task.claim = False, None, None

    def _satisfied(self, task: Task, position: int) -> list[int]:
        """Count the dependents of a step down; returns those that became ready, which are enqueued."""
        ready = []
        for child in task.workflow.children(position):
            step = task.steps[child]
            step.unmet -= 1
            if step.state == "pending" and step.unmet == 0 and task.admitted:
                step.state, step.message = "enqueued", task.state != "paused"
                ready.append(child)
        return ready

    def _close(self, task: Task) -> None:
        for step in task.steps:
            if step.state not in ENDED:
                step.state = "cancelled"
            if step.timer is not None:
                step.timer = ("deadline", self.now) if step.timer[0] == "deadline" else None

    def _requeue(self, step: Step, losses: int) -> None:
        step.state, step.attempts, step.losses = "enqueued", step.attempts - 1, step.losses + losses
        step.marked, step.message = False, True

    # -- executors ------------------------------------------------------------------------------------------------

    def check(self, executor: str) -> None:
        known = self.executors[executor]
        if known.lost or known.gone:
            raise Refused("TK006")

    def holds(self, executor: str, hold: Hold) -> bool:
        step = self.step(hold[:2])
        return step.state == "in_progress" and step.fence == hold[2] and step.executor == executor

    def name_finished(self, executor: str, calls: Iterable[int]) -> None:
        """Receipts go, but for those that hold a step which no deadline guards."""
        for call in calls:
            held = self.receipts.get((executor, call), [])
            if not any(self.holds(executor, hold) and self.step(hold[:2]).timer is None for hold in held):
                self.receipts.pop((executor, call), None)

    def is_due(self, place: Place) -> bool:
        """Whether a claim may take a step."""
        task, step = self.tasks[place[0]], self.step(place)
        timer_is_due = step.timer is not None and step.timer[0] == "retry" and step.timer[1] <= self.now
        return (
            task.state == "in_progress"
            and place not in self.locked_steps
            and ((step.state == "enqueued" and step.message) or (step.state == "waiting_for_retry" and timer_is_due))
        )

    def take(self, executor: str, call: int, place: Place) -> None:
        step = self.step(place)
        step.state, step.executor, step.marked = "in_progress", executor, False
        step.fence, step.attempts = step.fence + 1, step.attempts + 1
        step.timer, step.message = None, False
        self.receipts.setdefault((executor, call), []).append((*place, step.fence))

    def settle(self, outcomes: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[str, str | None]], list[Place]]:
        """What outcomes are answered, in order, and which steps became ready."""
        said: dict[int, tuple[str, str | None]] = {}
        completed: list[Place] = []
        touched: list[Task] = []
        seen: set[Place] = set()
        order = sorted(range(len(outcomes)), key=lambda n: (outcomes[n]["task_uuid"], outcomes[n]["position"], n))
        for number in order:
            outcome = outcomes[number]
            place = (outcome["task_uuid"], outcome["position"])
            task, step = self.tasks[place[0]], self.step(place)
            if task.uuid in self.locked:
                said[number] = ("busy", "task_locked")
                continue
            if place in seen:
                said[number] = ("stale", "repeated_in_batch")
                continue
            seen.add(place)
            own = step.fence == outcome["fence"] and step.executor == outcome["executor"]
            status = outcome["status"]
            if step.state != "in_progress" or not own:
                again = status == "complete" and step.state == "complete"
                again = again or (status == "error" and step.state in ("waiting_for_retry", "error"))
                if own and again:
                    said[number] = ("accepted", "repeated")
                elif step.state == "cancelled":
                    said[number] = ("stale", "cancelled")
                elif step.state != "in_progress":
                    said[number] = ("stale", f"step_is_{step.state}")
                else:
                    old = step.fence != outcome["fence"]
                    said[number] = ("stale", "fence_is_old" if old else "executor_differs")
                continue
            said[number] = ("accepted", None)
            if status == "delegated":
                step.timer = step.timer or ("deadline", self.now + DEADLINE_SECONDS)
                continue
            step.timer = None
            touched.append(task)
            if status == "complete":
                step.state = "complete"
                completed.append(place)
            else:
                self._fail(task, step, retryable=outcome["error"].get("retryable", True))
        ready = [(uuid, child) for uuid, position in completed for child in self._satisfied(self.tasks[uuid], position)]
        for task in touched:
            self._end_if_idle(task)
        return [said[number] for number in range(len(outcomes))], ready

    def _fail(self, task: Task, step: Step, *, retryable: bool) -> None:
        if retryable and task.workflow.retryable and step.attempts < MAX_ATTEMPTS:
            step.state, step.timer = "waiting_for_retry", ("retry", self.now + RETRY_SECONDS)
        else:
            step.state = "error"

    def release(self, executor: str, holds: Iterable[Hold]) -> int:
        given_back = 0
        for hold in dict.fromkeys(holds):
            if self.holds(executor, hold) and self.step(hold[:2]).timer is None:
                self._requeue(self.step(hold[:2]), 0)
                given_back += 1
        return given_back

    def mark(self, executor: str, holds: Sequence[Hold]) -> list[bool]:
        self.check(executor)
        started = [self.holds(executor, hold) for hold in holds]
        for hold, yes in zip(holds, started, strict=True):
            if yes:
                self.step(hold[:2]).marked = True
        return started

    def heartbeat(self, executor: str, oldest: int, next_call: int | None, held_calls: Iterable[int]) -> set[Hold]:
        """The steps in the executor's receipts that others have decided on."""
        self.check(executor)
        known = self.executors[executor]
        known.oldest, known.silent = max(known.oldest, oldest), False
        if next_call is not None and next_call >= known.next_call:
            known.next_call, known.held_calls = next_call, frozenset(held_calls)
        held = [hold for receipt, holds in self.receipts.items() if receipt[0] == executor for hold in holds]
        return {
            hold
            for hold in held
            if self.step(hold[:2]).state in ("cancelled", "resolved_manually") or self.step(hold[:2]).fence != hold[2]
        }

    def sweep(self) -> dict[str, int]:
        """How many steps were requeued, poisoned, ended with an unknown outcome, and skipped."""
        found = dict.fromkeys(("requeued", "poisoned", "unknown", "skipped"), 0)
        for known in self.executors.values():
            known.lost = known.lost or (known.silent and not known.gone)
        for (executor, call), holds in list(self.receipts.items()):
            known = self.executors[executor]
            if not (known.lost or known.gone or known.dropped(call)):
                continue
            # One that took its leave spoils nothing for the steps that it left behind.
            loss = int(known.lost and not known.gone)
            skipped = 0
            for hold in holds:
                task, step = self.tasks[hold[0]], self.step(hold[:2])
                if not self.holds(executor, hold) or step.timer is not None:
                    continue
                if task.uuid in self.locked:
                    skipped += 1
                elif step.losses + loss >= MAX_LOSSES:
                    found["poisoned"] += 1
                    step.state, step.losses = "error", step.losses + loss
                elif step.marked and not task.workflow.retryable:
                    found["unknown"] += 1
                    step.state, step.losses = "error", step.losses + loss
                else:
                    found["requeued"] += 1
                    self._requeue(step, loss)
            for uuid in {hold[0] for hold in holds} - self.locked:
                self._end_if_idle(self.tasks[uuid])
            found["skipped"] += skipped
            if not skipped:
                del self.receipts[executor, call]
        return found

    # -- orchestration --------------------------------------------------------------------------------------------

    def fire_deadlines(self) -> list[Hold]:
        """Deadlines that are due: of running steps, which fail, or of others; returns the runs to be revoked."""
        over = []
        for task in self.tasks.values():
            for position, step in enumerate(task.steps):
                if step.timer is None or step.timer[0] != "deadline" or step.timer[1] > self.now:
                    continue
                # What does not run any more only leaves an id to be revoked: no lock keeps anybody from that.
                if task.uuid in self.locked and step.state == "in_progress":
                    continue
                over.append((task.uuid, position, step.fence))
                step.timer = None
                if step.state == "in_progress":
                    self._fail(task, step, retryable=True)
                    self._end_if_idle(task)
        return over

    def enqueue_deferred(self) -> None:
        for task in self.tasks.values():
            if not task.deferred or task.uuid in self.locked:
                continue
            task.deferred = False
            if task.state != "paused":
                for step in task.steps:
                    step.message = step.message or step.state == "enqueued"

    def claim_ready(self, processor: str) -> set[str]:
        claimed = set()
        for task in self.tasks.values():
            if task.admitted or task.state in TERMINAL or task.uuid in self.locked:
                continue
            if task.scheduled is not None and task.scheduled <= self.now:
                task.scheduled = None
            free = task.claim is None or task.claim.until <= self.now
            if task.state == "pending" and task.scheduled is None and free:
                task.claim = Claim(processor, self.now + CLAIM_SECONDS)
                claimed.add(task.uuid)
        return claimed

    def admit(self, processor: str, uuids: Iterable[str]) -> int:
        admitted = 0
        for uuid in uuids:
            task = self.tasks[uuid]
            free = task.claim is None or task.claim.by == processor or task.claim.until <= self.now
            if task.state == "pending" and task.scheduled is None and free:
                self._admit(task)
                admitted += 1
        return admitted

    def reject(self, processor: str, uuids: Iterable[str]) -> int:
        rejected = 0
        for uuid in uuids:
            task = self.tasks[uuid]
            if task.state == "pending" and (task.claim is None or task.claim.by == processor):
                self._end(task, "error")
                rejected += 1
        return rejected

    # -- finalization ---------------------------------------------------------------------------------------------

    def claim_finalization(self, uuid: str, processor: str) -> tuple[str, int]:
        """The reason and the claim's number."""
        task = self.tasks[uuid]
        if task.state not in TERMINAL:
            return "not_finished", task.claim_no
        if task.finalized:
            return "already_finalized", task.claim_no
        held = task.finalization
        if held is not None and held.by != processor and held.until > self.now:
            return "already_claimed", task.claim_no
        if held is None or held.by != processor:
            task.claim_no += 1
        task.finalization = Claim(processor, self.now + CLAIM_SECONDS)
        return "claimed", task.claim_no

    def _is_claimed(self, task: Task, processor: str, claim_no: int) -> bool:
        return task.finalization is not None and (task.finalization.by, task.claim_no) == (processor, claim_no)

    def finalize(self, uuid: str, processor: str, claim_no: int) -> str:
        task = self.tasks[uuid]
        if task.state not in TERMINAL:
            return "not_finished"
        if task.finalized:
            return "already_finalized"
        if not self._is_claimed(task, processor, claim_no):
            return "claim_lost"
        task.finalized, task.finalization = True, None
        return "finalized"

    def release_finalization(self, uuid: str, processor: str, claim_no: int) -> bool:
        task = self.tasks[uuid]
        yes = self._is_claimed(task, processor, claim_no)
        if yes:
            task.finalization = None
        return yes

    # -- an operator ----------------------------------------------------------------------------------------------

    def pause(self, uuid: str) -> bool:
        task = self.tasks[uuid]
        if task.state not in ("pending", "in_progress"):
            return False
        task.state, task.claim = "paused", None
        return True

    def resume(self, uuid: str) -> bool:
        task = self.tasks[uuid]
        if task.state != "paused":
            return False
        task.state = "in_progress" if task.admitted else "pending"
        for step in task.steps:
            step.message = step.message or step.state == "enqueued"
            if step.state == "waiting_for_retry" and step.timer is None:
                step.timer = ("retry", self.now)
        return True

    def cancel(self, uuid: str) -> bool:
        task = self.tasks[uuid]
        if task.state in TERMINAL:
            return False
        self._close(task)
        self._end(task, "cancelled")
        return True

    def retry(self, uuid: str) -> None:
        task = self.tasks[uuid]
        if task.state != "error":
            raise Refused("TK005")
        self._reopen(task)
        for step in task.steps:
            if task.admitted and (step.state == "error" or (step.state == "pending" and step.unmet == 0)):
                self._run_anew(step)

    def reset(self, uuid: str, position: int) -> None:
        task, step = self.tasks[uuid], self.step((uuid, position))
        if step.state in CLOSED or step.state == "pending" or task.state not in ("in_progress", "paused", "error"):
            raise Refused("TK005")
        if task.state == "error":
            self._reopen(task)
        self._run_anew(step)

    def _run_anew(self, step: Step) -> None:
        step.state, step.attempts, step.losses, step.marked = "enqueued", 0, 0, False
        step.timer, step.message = None, True

    def resolve_step(self, uuid: str, position: int) -> None:
        task, step = self.tasks[uuid], self.step((uuid, position))
        if step.state in SATISFIED | {"cancelled"} or task.state in CLOSED:
            raise Refused("TK005")
        if task.state == "error":
            self._reopen(task)
        step.state = "resolved_manually"
        if step.timer is not None:
            step.timer = ("deadline", self.now) if step.timer[0] == "deadline" else None
        self._satisfied(task, position)
        self._end_if_idle(task)

    def resolve_task(self, uuid: str) -> None:
        task = self.tasks[uuid]
        if task.state in CLOSED:
            raise Refused("TK005")
        if task.state == "error":
            task.finish_no += 1
            task.finalization = None
        self._close(task)
        self._end(task, "resolved_manually")

    # -- what must be in the tables -------------------------------------------------------------------------------

    def tables(self) -> dict[str, Any]:
        return {
            "tasks": {
                task.uuid: [
                    task.state, task.active, task.admitted, task.checked, task.scheduled is not None,
                    task.claim.by if task.claim else None, task.finish_no, task.claim_no,
                    task.finalization.by if task.finalization else None, task.finalized,
                    [task.open if task.state in ("complete", "error") else 0, task.failed]
                    if task.state in TERMINAL else None,
                ]
                for task in self.tasks.values()
            },
            "steps": {
                f"{task.uuid} {position}": [
                    step.state, step.fence, step.attempts, step.losses, step.unmet, step.executor, step.marked,
                    step.timer[0] if step.timer else None,
                ]
                for task in self.tasks.values()
                for position, step in enumerate(task.steps)
            },
            "receipts": {
                f"{executor} {call}": sorted([list(hold) for hold in holds])
                for (executor, call), holds in self.receipts.items()
            },
        }  # fmt: skip
