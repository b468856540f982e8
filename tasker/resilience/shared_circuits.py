"""Circuits of external systems: one state for all processes, of which each process keeps a copy.

The *ledger* (PostgreSQL, handed in from above) decides. The copy answers the question that is asked for every call,
"may it go through", without asking the ledger, and is brought up to date by three ways: the ledger's notifications, the
answers of calls that are made anyway, and a look every few seconds. What calls come to is told to the ledger in the
background, and only where it matters: a success of a call through a closed circuit without failures is nobody's news.

Failures count in the copy at once, so a process that sees enough of them stops calling before the ledger has answered,
and also while it cannot be reached: then the copy is a circuit of its own until the ledger is back.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol

from tasker.errors import CircuitOpen
from tasker.resilience.circuit_config import CircuitConfig, CircuitStatus

logger = logging.getLogger(__name__)

Verdict = Literal["success", "failure", "neutral"]
"""What a call says of the system: it works, it does not, or nothing."""

REFRESH_SECONDS = 5.0
"""How often the ledger is looked at when nothing is heard of it."""

PROBE_SECONDS = 60.0
"""How long the one call that a half-open circuit lets through is waited for before another may try."""

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.25, 5.0
FORGET_SECONDS = 60.0
"""What could not be told to the ledger for so long is no news any more."""

END_SECONDS = 2.0


class CircuitLedger(Protocol):
    """Where the shared state is. Calls may raise anything while it cannot be reached; none may take long then.

    Answers are as ``tasker.describe_circuit`` in the SQL contract describes them.
    """

    def report(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Count what calls came to."""
        ...

    def ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Whether a call may go through a circuit that is not closed; also ``allowed`` and ``is_probe``."""
        ...

    def change(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Open, close or reset by hand; also ``changed``."""
        ...

    def states(self) -> Mapping[str, Mapping[str, Any]]:
        """By name, all circuits that are not closed or have failures."""
        ...


class Subscription(Protocol):
    """Ends what ``Subscribe`` began."""

    def close(self) -> None:
        """Call no more."""
        ...


Subscribe = Callable[[Callable[[], object]], Subscription]
"""Has something called, soon after each change of any circuit, on a thread that must not be kept."""


class _Copy:
    """One circuit as this process knows it, with what the ledger has yet to be told. Owned by ``SharedCircuits``."""

    __slots__ = (
        "config", "error", "failures", "forced", "is_told", "known_at", "name", "probes", "retry_at", "state",
        "untold_failures", "untold_since", "untold_success",
    )  # fmt: skip

    def __init__(self, name: str, config: CircuitConfig) -> None:
        self.name = name
        self.config = config
        self.state = "closed"
        self.forced = False
        self.failures = 0
        # Open: until a call may try. Half open: until another may, if the one under way does not end.
        self.retry_at: float | None = None
        # What was asked before this is older than what is known.
        self.known_at = 0.0
        self.error = ""
        self.untold_failures = 0
        self.untold_success = False
        self.untold_since = 0.0
        self.probes: list[Verdict] = []
        # The ledger is being told: what others say of it meanwhile may be older or newer.
        self.is_told = False

    @property
    def untold(self) -> bool:
        return bool(self.untold_failures or self.untold_success or self.probes)


class SharedCircuits:
    """This process's copies, and the thread that keeps them and the ledger in step.

    ``_lock`` owns the copies and is never held during a call; ``_telling`` is held by whoever tells the ledger, so that
    reports of one circuit keep their order. The thread comes with ``watch``.

    Args:
        ledger: decides.
        config_of: the configuration of a circuit.
        subscribe: has this object woken when a circuit changes; ``None`` leaves it to looking.
        max_circuits: how many circuits the ledger shall hold.
    """

    def __init__(
        self,
        ledger: CircuitLedger,
        config_of: Callable[[str], CircuitConfig],
        *,
        subscribe: Subscribe | None = None,
        max_circuits: int = 100,
    ) -> None:
        self._ledger = ledger
        self._config_of = config_of
        self._subscribe = subscribe
        self._max_circuits = max_circuits
        self._by = f"{socket.gethostname()}:{os.getpid()}"
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._telling = threading.Lock()
        self._copies: dict[str, _Copy] = {}
        self._look = False
        self._away = False
        self._closing = False
        self._watching = False
        self._known = False
        self._thread: threading.Thread | None = None
        self._subscription: Subscription | None = None

    # -- the copies -----------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Keep the copies up to date from here on. Idempotent, and costs nothing the second time."""
        if not self._watching:
            self._start_watching()

    @property
    def known(self) -> bool:
        """Whether the ledger has been heard of, so that a circuit that is not known to be open is closed."""
        return self._known

    def know(self) -> None:
        """Look at the ledger now, on this thread, unless it has been heard of; and keep up to date from here on."""
        if self._known:
            return
        self._known = True  # one try: a process that starts while the ledger is away hears of it later
        self.watch()
        asked_at = time.monotonic()
        try:
            self.learn(self._ledger.states(), asked_at)
        except Exception as error:
            self._lost(error)

    def look(self) -> None:
        """Look at the ledger soon; from any thread."""
        with self._lock:
            self._look = True
            self._changed.notify()

    def learn(self, states: Mapping[str, Mapping[str, Any]], asked_at: float) -> None:
        """Take over what an answer says of all circuits.

        Args:
            states: all that are not closed or have failures, by name.
            asked_at: when the question was sent, by ``time.monotonic()``; what is known since then stays.
        """
        self._known = True
        with self._lock:
            for name, state in states.items():
                copy = self._copy(name)
                if asked_at >= copy.known_at and not copy.is_told:
                    self._take(copy, state, asked_at)
            for name, copy in self._copies.items():
                troubled = copy.state != "closed" or copy.failures
                if troubled and name not in states and asked_at >= copy.known_at and not copy.is_told:
                    self._take(copy, _CLOSED, asked_at)

    def status(self, name: str) -> CircuitStatus:
        """A circuit as this process knows it."""
        with self._lock:
            return self._status(self._copy(name))

    def statuses(self) -> list[CircuitStatus]:
        """All circuits that this process knows of."""
        with self._lock:
            return [self._status(copy) for copy in self._copies.values()]

    def is_closed(self, name: str) -> bool:
        """Whether calls go through without further questions."""
        copy = self._copies.get(name)
        return copy is None or copy.state == "closed"

    def change(self, name: str, action: str, *, by: str | None, reason: str | None) -> CircuitStatus:
        """Open, close or reset by hand, in the ledger.

        Raises:
            Exception: whatever the ledger raises when it cannot be reached.
        """
        answer = self._ledger.change({"name": name, "action": action, "by": by or self._by, "reason": reason})
        with self._lock:
            copy = self._copy(name)
            copy.untold_failures, copy.untold_success = 0, False
            copy.probes.clear()
            self._take(copy, answer, time.monotonic())
            return self._status(copy)

    # -- calls ----------------------------------------------------------------------------------------------------

    def admit_here(self, name: str, *, only_by_hand: bool = False) -> bool | None:
        """Whether a call goes through (``False``: as any call), as far as this process can say: ``None`` must ask.

        Args:
            name: the circuit.
            only_by_hand: heed only what operators opened.

        Raises:
            CircuitOpen: it does not.
        """
        with self._lock:
            copy = self._copy(name)
            if copy.state == "closed" or (only_by_hand and not copy.forced):
                return False
            if copy.forced or (copy.retry_at is not None and time.monotonic() < copy.retry_at):
                raise self._refusal(copy)
            return None

    def ask(self, name: str) -> bool:
        """Ask the ledger for a call that ``admit_here`` left open; whether it is the one that is let through.

        Raises:
            CircuitOpen: it may not be made.
        """
        self.watch()
        self.tell((name,))
        if not self._away:
            request = {"name": name, "by": self._by, "probe_seconds": PROBE_SECONDS}
            try:
                answer = self._ledger.ask(request)
            except Exception as error:
                self._lost(error)
            else:
                with self._lock:
                    copy = self._copy(name)
                    self._take(copy, answer, time.monotonic())
                    if not answer["allowed"]:
                        raise self._refusal(copy)
                return bool(answer["is_probe"])
        # Nobody to ask: the copy is the circuit.
        with self._lock:
            copy = self._copy(name)
            now = time.monotonic()
            if copy.state == "closed":
                return False
            if copy.forced or (copy.retry_at is not None and now < copy.retry_at):
                raise self._refusal(copy)
            copy.state, copy.retry_at = "half_open", now + PROBE_SECONDS
            return True

    def record(self, name: str, verdict: Verdict, *, is_probe: bool = False, error: str = "") -> None:
        """Count what a call came to. Never waits for the ledger.

        Args:
            name: the circuit.
            verdict: what the call says of the system.
            is_probe: it was the call that a half-open circuit let through.
            error: what went wrong, for those who ask why it opened.
        """
        with self._lock:
            copy = self._copy(name)
            untold = copy.untold
            if is_probe:
                copy.probes.append(verdict)
                if self._away:
                    self._decide_alone(copy, verdict)
            elif copy.state != "closed" or verdict == "neutral":
                return  # it began before the circuit opened, or says nothing
            elif verdict == "failure":
                copy.failures += 1
                copy.untold_failures += 1
            elif copy.failures:
                copy.failures = copy.untold_failures = 0
                copy.untold_success = True
            else:
                return
            if error:
                copy.error = error
            if not untold:
                copy.untold_since = time.monotonic()
            self._changed.notify()
        self.watch()

    def opened(self, name: str) -> None:
        """This process has seen enough failures: stop calling now. The ledger is told, and may say otherwise."""
        with self._lock:
            copy = self._copy(name)
            if copy.state != "open":
                copy.state, copy.retry_at = "open", time.monotonic() + copy.config.timeout_seconds

    def failures(self, name: str) -> int:
        """Failures in a row, as far as is known here."""
        with self._lock:
            return self._copy(name).failures

    # -- telling --------------------------------------------------------------------------------------------------

    def tell(self, names: Iterable[str]) -> None:
        """Tell the ledger now, on this thread, what it has yet to be told of these circuits.

        Errors are logged; what could not be told is told later, or dropped when it is old.
        """
        if self._away:
            return
        try:
            for name in names:
                self._tell(name)
        except Exception as error:
            self._lost(error)

    def close(self) -> None:
        """Tell what is left, and end the thread."""
        with self._lock:
            self._closing = True
            thread = self._thread
            self._changed.notify_all()
        if self._subscription is not None:
            self._subscription.close()
        if thread is not None:
            thread.join(END_SECONDS)

    def _tell(self, name: str) -> None:
        with self._telling:
            with self._lock:
                copy = self._copy(name)
                failures, success, probes = copy.untold_failures, copy.untold_success, list(copy.probes)
                since, error = copy.untold_since, copy.error
                copy.untold_failures, copy.untold_success = 0, False
                copy.probes.clear()
                copy.is_told = True
            told = 0
            try:
                # Other calls are let through, and counted, only after one that tried.
                for verdict in probes:
                    counts = {"failures": int(verdict == "failure"), "successes": int(verdict == "success")}
                    self._report(copy, **counts, is_probe=True, reason=error or None)
                    told += 1
                if failures or success:
                    self._report(copy, failures=failures, successes=int(success), reason=error or None)
            except BaseException:
                if time.monotonic() - since < FORGET_SECONDS:
                    with self._lock:
                        # A success that came since has forgotten those failures.
                        copy.untold_failures += 0 if copy.untold_success else failures
                        copy.untold_success = copy.untold_success or success
                        copy.probes[:0] = probes[told:]
                        copy.untold_since = since
                raise
            finally:
                with self._lock:
                    copy.is_told = False
                    copy.known_at = time.monotonic()

    def _report(self, copy: _Copy, **counts: Any) -> None:
        config = copy.config
        answer = self._ledger.report(
            {
                "name": copy.name,
                "failure_threshold": config.failure_threshold,
                "success_threshold": config.success_threshold,
                "timeout_seconds": config.timeout_seconds,
                "max_circuits": self._max_circuits,
                "by": self._by,
                **counts,
            }
        )
        with self._lock:
            self._take(copy, answer, time.monotonic())

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = 0.0
        look_at = 0.0
        while True:
            with self._lock:
                not_before = time.monotonic() + pause
                while not self._closing:
                    now = time.monotonic()
                    wanted = self._look or now >= look_at or any(copy.untold for copy in self._copies.values())
                    if wanted and now >= not_before:
                        break
                    self._changed.wait((not_before if wanted else look_at) - now)
                closing = self._closing
                names = [name for name, copy in self._copies.items() if copy.untold]
                looking = not closing and (self._look or time.monotonic() >= look_at)
                self._look = False
            try:
                for name in names:
                    self._tell(name)
                if looking:
                    asked_at = time.monotonic()
                    self.learn(self._ledger.states(), asked_at)
                    look_at = asked_at + REFRESH_SECONDS
                self._away = False
                pause = 0.0
            except Exception as error:
                self._lost(error)
                with self._lock:
                    self._look = self._look or looking
                pause = min(max(pause * 2, FIRST_RETRY_SECONDS), LAST_RETRY_SECONDS)
            if closing:
                return

    def _lost(self, error: Exception) -> None:
        level = logging.DEBUG if self._away else logging.WARNING
        logger.log(level, "circuits: no word with the database, this process decides alone: %s", error)
        self._away = True
        with self._lock:
            self._look = True
            self._changed.notify()

    def _start_watching(self) -> None:
        with self._lock:
            if self._watching or self._closing:
                return
            self._watching = self._look = True
            self._thread = threading.Thread(target=self._run, name="tasker-circuits", daemon=True)
            self._thread.start()
        if self._subscribe is not None:
            self._subscription = self._subscribe(self.look)

    # -- with _lock held ------------------------------------------------------------------------------------------

    def _copy(self, name: str) -> _Copy:
        copy = self._copies.get(name)
        if copy is None:
            copy = self._copies[name] = _Copy(name, self._config_of(name))
        return copy

    def _take(self, copy: _Copy, state: Mapping[str, Any], known_at: float) -> None:
        """What the ledger says, plus what it has not been told yet."""
        before = copy.state
        copy.known_at = known_at
        copy.forced = bool(state.get("forced", False))
        copy.failures = (0 if copy.untold_success else int(state["failures"])) + copy.untold_failures
        if state["state"] == "closed" and copy.untold_failures and copy.failures >= copy.config.failure_threshold:
            return  # it will open as soon as it hears
        copy.state = state["state"]
        seconds: float | None = state.get("retry_after_seconds")
        waits = seconds is not None and copy.state != "closed" and not copy.forced
        copy.retry_at = time.monotonic() + (seconds or 0.0) if waits else None
        if copy.state != before:
            logger.info("circuit %s is %s", copy.name, copy.state)

    def _decide_alone(self, copy: _Copy, verdict: Verdict) -> None:
        now = time.monotonic()
        if copy.state != "half_open":
            return
        if verdict == "failure":
            copy.state, copy.retry_at = "open", now + copy.config.timeout_seconds
        elif verdict == "success":
            copy.state, copy.failures, copy.retry_at = "closed", 0, None
            copy.untold_failures, copy.untold_success = 0, True
        else:
            copy.retry_at = now

    def _status(self, copy: _Copy) -> CircuitStatus:
        wait = None if copy.retry_at is None else max(0.0, copy.retry_at - time.monotonic())
        return CircuitStatus(
            name=copy.name,
            state=copy.state,
            is_shared=True,
            forced=copy.forced,
            failures=copy.failures,
            retry_after_seconds=wait,
        )

    def _refusal(self, copy: _Copy) -> CircuitOpen:
        wait = None if copy.retry_at is None else max(0.0, copy.retry_at - time.monotonic())
        if copy.forced:
            hint = f"it was opened by hand: `tasker circuit close {copy.name}` closes it"
        elif copy.state == "half_open":
            hint = "one call tries whether the system is back"
        else:
            hint = f"one call may try again in {0.0 if wait is None else wait:.0f} s"
        return CircuitOpen(
            f"circuit {copy.name} is {copy.state.replace('_', ' ')}",
            hint=hint,
            retry_after_seconds=wait,
            circuit=copy.name,
        )


_CLOSED: Mapping[str, Any] = {"state": "closed", "failures": 0, "forced": False, "retry_after_seconds": None}
