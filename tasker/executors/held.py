"""The steps that an executor holds, from the answer that brought them until they are settled.

A step is *ready* (claimed, not started), then *running*, then *settled*: its outcome is on its way, or it was given
back, or it is known to be others' now. Whoever settles it does so alone: a handler that ends, its timeout, a
cancellation and a stop may meet, and exactly one of them speaks for the step.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import Any, TypedDict

from tasker.executors.incarnation import Incarnation
from tasker.executors.templates import StepTemplate


class Phase(IntEnum):
    """How far a held step is."""

    READY = 0
    RUNNING = 1
    SETTLED = 2


class StepKey(TypedDict):
    """What names a step of this claim in a request."""

    task_uuid: str
    position: int
    map_index: int
    fence: int


class HeldStep:
    """One claimed step. ``phase`` and ``cancelled`` belong to the lock of ``HeldSteps``; the rest is set once."""

    __slots__ = (
        "attempt", "call_no", "cancelled", "chain_hops", "chain_started", "claimed_at", "deadline", "fence",
        "incarnation", "interrupt", "losses", "map_index", "phase", "position", "probe", "results", "results_paged",
        "started_at", "step_uuid", "task", "task_uuid", "template", "uses", "waited_seconds",
    )  # fmt: skip

    def __init__(
        self,
        claimed: Mapping[str, Any],
        *,
        incarnation: Incarnation,
        call_no: int,
        template: StepTemplate,
        task: Mapping[str, Any],
        results: Mapping[str, Any],
        now: float,
        chain: tuple[int, float],
        probe: str | None = None,
    ) -> None:
        self.incarnation = incarnation
        self.call_no = call_no
        self.task_uuid: str = claimed["task_uuid"]
        self.step_uuid: str = claimed["step_uuid"]
        self.position: int = claimed["position"]
        self.map_index: int = claimed["map_index"]
        self.fence: int = claimed["fence"]
        self.attempt: int = claimed["attempt"]
        self.losses: int = claimed["losses"]
        self.results_paged: bool = claimed["results_paged"]
        # How long it could have run before it was claimed; unknown of what ran before.
        self.waited_seconds: float | None = claimed.get("waited_seconds")
        self.template = template
        self.task = task
        self.results = results
        self.claimed_at = now
        # How many local continuations led here, and when the first step of the chain was claimed.
        self.chain_hops, self.chain_started = chain
        self.phase = Phase.READY
        self.started_at = 0.0
        self.deadline: float | None = None
        self.cancelled: str | None = None
        # Set by the runner while the handler can be interrupted.
        self.interrupt: Callable[[], None] | None = None
        # The half-open circuit that this step was let through to try, until that is used; and what its handler did
        # about circuits. Both are the business of StepCircuits.
        self.probe = probe
        self.uses: Any = None

    def key(self) -> StepKey:
        """The step as requests name it."""
        return {
            "task_uuid": self.task_uuid,
            "position": self.position,
            "map_index": self.map_index,
            "fence": self.fence,
        }


class HeldSteps:
    """All that one executor holds and has not settled. ``_lock`` owns every member; nothing calls out under it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready: deque[HeldStep] = deque()
        self._running: set[HeldStep] = set()

    def add(self, steps: Iterable[HeldStep]) -> None:
        """Steps that were just claimed."""
        with self._lock:
            self._ready.extend(steps)

    def start_next(self, now: float) -> HeldStep | None:
        """The step that waited longest, now running; ``None`` when none is ready."""
        with self._lock:
            if not self._ready:
                return None
            step = self._ready.popleft()
            step.phase = Phase.RUNNING
            step.started_at = now
            timeout = step.template.timeout_seconds
            if timeout is not None:
                step.deadline = now + timeout
            self._running.add(step)
            return step

    def settle(self, step: HeldStep) -> bool:
        """Whether the caller is the one who speaks for ``step``; at most one ever is."""
        with self._lock:
            return self._settle(step)

    def take_unstarted(self, claimed_before: float | None = None) -> list[HeldStep]:
        """Ready steps (only those claimed before ``claimed_before``, when given), settled: to be given back."""
        with self._lock:
            if claimed_before is None:
                taken = list(self._ready)
                self._ready.clear()
            else:
                taken = [step for step in self._ready if step.claimed_at < claimed_before]
                if taken:
                    self._ready = deque(step for step in self._ready if step.claimed_at >= claimed_before)
            for step in taken:
                step.phase = Phase.SETTLED
            return taken

    def take_timed_out(self, now: float) -> list[HeldStep]:
        """Running steps whose deadline has passed, settled: the caller reports them."""
        with self._lock:
            late = [step for step in self._running if step.deadline is not None and step.deadline <= now]
            for step in late:
                step.cancelled = step.cancelled or "timeout"
                self._settle(step)
            return late

    def take_running(self, reason: str) -> list[HeldStep]:
        """All running steps, settled: the grace period of a stop is over."""
        with self._lock:
            steps = list(self._running)
            for step in steps:
                step.cancelled = step.cancelled or reason
                self._settle(step)
            return steps

    def cancel(self, lost: Mapping[tuple[str, int, int, int], str]) -> list[HeldStep]:
        """Steps that the database says are not ours any more, settled; their handlers are told why.

        Args:
            lost: (task_uuid, position, map_index, fence) → reason.
        """
        with self._lock:
            gone = [
                step
                for step in (*self._ready, *self._running)
                if (step.task_uuid, step.position, step.map_index, step.fence) in lost
            ]
            for step in gone:
                step.cancelled = lost[step.task_uuid, step.position, step.map_index, step.fence]
                if step.phase is Phase.READY:
                    self._ready.remove(step)
                    step.phase = Phase.SETTLED
                else:
                    self._settle(step)
            return gone

    def drop(self, incarnation: Incarnation, reason: str) -> list[HeldStep]:
        """Everything held under a lost ``incarnation``, settled; returns what was running."""
        with self._lock:
            running = [step for step in self._running if step.incarnation is incarnation]
            for step in (*self._ready, *running):
                if step.incarnation is incarnation:
                    step.cancelled = step.cancelled or reason
                    step.phase = Phase.SETTLED
            self._ready = deque(step for step in self._ready if step.incarnation is not incarnation)
            self._running.difference_update(running)
            return running

    def load(self, now: float, unknown_ms: float) -> tuple[int, int, float]:
        """How many are ready, how many run, and how many milliseconds of work that is expected to be.

        Args:
            now: the time.
            unknown_ms: what a step counts of which nothing is known, and one that runs longer than it should.
        """
        with self._lock:
            work = 0.0
            for step in self._ready:
                work += unknown_ms if step.template.expected_ms is None else step.template.expected_ms
            for step in self._running:
                expected = step.template.expected_ms
                left = unknown_ms if expected is None else expected - (now - step.started_at) * 1000
                work += left if left > 0 else unknown_ms
            return len(self._ready), len(self._running), work

    def next_deadline(self) -> float | None:
        """The earliest deadline of a running step."""
        with self._lock:
            return min((step.deadline for step in self._running if step.deadline is not None), default=None)

    @property
    def count(self) -> int:
        """How many steps are held."""
        with self._lock:
            return len(self._ready) + len(self._running)

    @property
    def ready(self) -> int:
        """How many of them wait to be started."""
        with self._lock:
            return len(self._ready)

    @property
    def running(self) -> int:
        """How many of them run."""
        with self._lock:
            return len(self._running)

    def _settle(self, step: HeldStep) -> bool:
        if step.phase is not Phase.RUNNING:
            return False
        step.phase = Phase.SETTLED
        self._running.discard(step)
        return True
