"""Named circuit breakers: after repeated failures a component is left alone for a while.

pybreaker does the counting; this module gives each circuit a name, a configuration and one kind of error. The circuits
of the database and of PGMQ are kept in memory, since they guard what stores the others; those of external systems are
shared by all processes, where there is a ledger that keeps them (``shared_circuits``).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

import pybreaker

from tasker.config.circuits import CircuitBreakersSettings
from tasker.errors import CircuitOpen, ConfigurationError
from tasker.resilience.circuit_config import CircuitConfig, CircuitStatus
from tasker.resilience.guarded_calls import SharedCircuit
from tasker.resilience.shared_circuits import CircuitLedger, SharedCircuits, Subscribe

T = TypeVar("T")

logger = logging.getLogger(__name__)

DEFAULTS: Mapping[str, CircuitConfig] = {
    # Connecting fails fast and is tried by a few threads only: a database that is back shall be noticed at once.
    "database": CircuitConfig(failure_threshold=5, timeout_seconds=2, success_threshold=1),
    "pgmq": CircuitConfig(failure_threshold=5, timeout_seconds=2, success_threshold=1),
}
"""What differs from ``CircuitConfig()`` where the settings say nothing."""

OWN = frozenset(DEFAULTS)
"""Names of circuits that are never shared."""

OwnName = Literal["database", "pgmq"]


class _Storage(pybreaker.CircuitMemoryStorage):
    """Keeps since when a circuit is open by a clock that nobody sets.

    pybreaker compares times of day: were the clock set back by an hour, the circuit would stay open that much longer.
    """

    def __init__(self) -> None:
        super().__init__(pybreaker.STATE_CLOSED)
        self._open_since: float | None = None

    @property
    def opened_at(self) -> datetime | None:
        """When it opened, by what the time of day is now."""
        if self._open_since is None:
            return None
        return datetime.now(UTC) - timedelta(seconds=time.monotonic() - self._open_since)

    @opened_at.setter
    def opened_at(self, moment: datetime) -> None:
        self._open_since = time.monotonic()  # it is set to the moment in which this happens


class Circuit:
    """One circuit in the memory of this process, for any number of threads.

    pybreaker's ``call`` would hold a lock during the guarded call and so let one thread in at a time; its ``calling``
    does not, hence everything goes through that.

    Args:
        name: of the component.
        config: when it opens and closes.
        counts: which errors are the component's failures; all, when ``None``.
        enabled: whether it opens by itself.
    """

    def __init__(
        self,
        name: str,
        config: CircuitConfig,
        *,
        counts: Callable[[BaseException], bool] | None = None,
        enabled: bool = True,
    ) -> None:
        self.name = name
        self.config = config
        self.enabled = enabled
        self._forced = False
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=config.failure_threshold,
            reset_timeout=config.timeout_seconds,
            success_threshold=config.success_threshold,
            exclude=[] if counts is None else [lambda error: not counts(error)],
            # The call that opens the circuit shows its own error; only later ones are refused.
            throw_new_error_on_trip=False,
            state_storage=_Storage(),
            name=name,
        )

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half_open``."""
        return "open" if self._forced else str(self._breaker.current_state).replace("-", "_")

    @property
    def failures(self) -> int:
        """Failures since the last success."""
        return int(self._breaker.fail_counter)

    @property
    def status(self) -> CircuitStatus:
        """How it is."""
        return CircuitStatus(self.name, self.state, forced=self._forced, failures=self.failures)

    def call(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """``function(*args, **kwargs)``, counted.

        Raises:
            CircuitOpen: the circuit is open; the function was not called.
        """
        with self.guard():
            return function(*args, **kwargs)

    async def acall(self, function: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        """As ``call``, for a coroutine function."""
        async with self.guard():
            return await function(*args, **kwargs)

    def guard(self) -> OwnGuard:
        """Count what happens inside a ``with`` (or ``async with``) block.

        Entering raises ``CircuitOpen`` when the circuit is open; the block does not run.
        """
        return OwnGuard(self)

    def force_open(self) -> None:
        """Refuse all calls until it is closed by hand."""
        self._forced = True

    def reset(self) -> None:
        """Close it now, as an operator who knows that the cause is gone."""
        self._forced = False
        self._breaker.close()

    def _begin(self) -> contextlib.AbstractContextManager[Any]:
        if self._forced:
            raise CircuitOpen(f"circuit {self.name} is open", hint="this process was told to open it")
        if not self.enabled:
            return contextlib.nullcontext()
        calling: contextlib.AbstractContextManager[Any] = self._breaker.calling()
        try:
            calling.__enter__()
        except pybreaker.CircuitBreakerError as error:
            raise CircuitOpen(
                f"circuit {self.name} is open after {self.config.failure_threshold} failures",
                hint=f"it lets a call try again within {self.config.timeout_seconds:g} s",
                retry_after_seconds=self.config.timeout_seconds,
            ) from error
        return calling


class OwnGuard:
    """The block of one guarded call of a ``Circuit``."""

    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit
        self._calling: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()

    def __enter__(self) -> Self:
        self._calling = self._circuit._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._calling.__exit__(kind, error, traceback)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


class CircuitBreakers:
    """The circuits of a process, made on first use.

    Args:
        configs: by name; names without an entry use ``DEFAULTS``, then ``default``.
        default: the configuration of all others.
        max_circuits: how many there may be beside the process's own; the number bounds what is shown and measured by
            name.
        enabled: whether circuits open by themselves.
        auto_create: make circuits of names without an entry.
        ledger: keeps the circuits of external systems; without one they are kept in memory.
        subscribe: tells of changes in the ledger.
    """

    def __init__(
        self,
        configs: Mapping[str, CircuitConfig] | None = None,
        *,
        default: CircuitConfig | None = None,
        max_circuits: int = 100,
        enabled: bool = True,
        auto_create: bool = True,
        ledger: CircuitLedger | None = None,
        subscribe: Subscribe | None = None,
    ) -> None:
        self._configs = {**DEFAULTS, **(configs or {})}
        self._default = default or CircuitConfig()
        self._max_circuits = max_circuits
        self._enabled = enabled
        self._auto_create = auto_create
        self._lock = threading.Lock()  # owns _circuits and _unguarded
        self._circuits: dict[str, Circuit | SharedCircuit] = {}
        self._unguarded: set[str] = set()
        self.shared = (
            None
            if ledger is None
            else SharedCircuits(ledger, self.config_of, subscribe=subscribe, max_circuits=max_circuits)
        )
        """This process's copies of the shared ones; ``None`` where there is no ledger."""

    @classmethod
    def from_settings(
        cls,
        settings: CircuitBreakersSettings,
        *,
        ledger: CircuitLedger | None = None,
        subscribe: Subscribe | None = None,
    ) -> CircuitBreakers:
        """The circuits that ``settings`` describe."""
        default, components = settings.default_config, settings.component_configs
        configs = {
            name: CircuitConfig(own.failure_threshold, own.timeout_seconds, own.success_threshold)
            for name, own in (
                ("database", settings.component_configs.database),
                ("pgmq", settings.component_configs.pgmq),
            )
        }
        for name, system in components.systems.items():
            configs[name] = CircuitConfig(
                default.failure_threshold if system.failure_threshold is None else system.failure_threshold,
                default.timeout_seconds if system.timeout_seconds is None else system.timeout_seconds,
                default.success_threshold if system.success_threshold is None else system.success_threshold,
            )
        return cls(
            configs,
            default=CircuitConfig(default.failure_threshold, default.timeout_seconds, default.success_threshold),
            max_circuits=settings.global_settings.max_circuit_breakers,
            enabled=settings.enabled,
            auto_create=settings.global_settings.auto_create_enabled,
            ledger=ledger,
            subscribe=subscribe,
        )

    def config_of(self, name: str) -> CircuitConfig:
        """The configuration of the circuit called ``name``."""
        return self._configs.get(name, self._default)

    @overload
    def get(self, name: OwnName, *, counts: Callable[[BaseException], bool] | None = None) -> Circuit: ...

    @overload
    def get(self, name: str, *, counts: Callable[[BaseException], bool] | None = None) -> Circuit | SharedCircuit: ...

    def get(self, name: str, *, counts: Callable[[BaseException], bool] | None = None) -> Circuit | SharedCircuit:
        """The circuit called ``name``.

        Args:
            name: of the component, or of the external system; at most 200 characters.
            counts: which errors are the component's failures (all, when ``None``); heeded when a circuit in memory is
                made.

        Raises:
            ConfigurationError: it is no name, or the settings allow no further circuit, or none of this name.
        """
        with self._lock:
            circuit = self._circuits.get(name)
            if circuit is None:
                self._check(name)
                circuit = self._circuits[name] = self._make(name, counts)
            return circuit

    def find(self, name: str) -> Circuit | SharedCircuit | None:
        """As ``get``, for those who can go without: ``None`` where the settings allow no such circuit."""
        circuit = self._circuits.get(name)
        if circuit is not None:
            return circuit
        try:
            return self.get(name)
        except ConfigurationError as error:
            with self._lock:
                is_news = name not in self._unguarded and len(self._unguarded) < self._max_circuits
                if is_news:
                    self._unguarded.add(name)
            if is_news and self._auto_create:
                logger.warning("calls of %s are not guarded: %s", name, error)
            return None

    def list(self) -> tuple[CircuitStatus, ...]:
        """All circuits that this process knows of, by name."""
        with self._lock:
            own = [circuit.status for circuit in self._circuits.values() if isinstance(circuit, Circuit)]
            used = {name for name, circuit in self._circuits.items() if isinstance(circuit, SharedCircuit)}
        if self.shared is not None:
            known = {status.name: status for status in self.shared.statuses()}
            own += [known.get(name) or self.shared.status(name) for name in used | known.keys()]
        return tuple(sorted(own, key=lambda status: status.name))

    def states(self) -> dict[str, str]:
        """Name → state, for health and the command line."""
        return {status.name: status.state for status in self.list()}

    def force_open(self, name: str, *, reason: str | None = None, by: str | None = None) -> CircuitStatus:
        """Refuse all calls of ``name`` until somebody closes the circuit; in all processes, if it is shared.

        Args:
            name: of the circuit.
            reason: why; kept with a shared circuit.
            by: who says so; this process when ``None``.
        """
        return self._change(name, "open", reason, by)

    def force_close(self, name: str, *, reason: str | None = None, by: str | None = None) -> CircuitStatus:
        """Close the circuit now; what it held back goes on."""
        return self._change(name, "close", reason, by)

    def reset(self, name: str, *, reason: str | None = None, by: str | None = None) -> CircuitStatus:
        """Close the circuit if it is not, and forget its failures."""
        return self._change(name, "reset", reason, by)

    def close(self) -> None:
        """Tell the ledger what it has yet to be told, and watch it no longer."""
        if self.shared is not None:
            self.shared.close()

    def _change(self, name: str, action: str, reason: str | None, by: str | None) -> CircuitStatus:
        circuit = self.get(name)
        if isinstance(circuit, SharedCircuit):
            return circuit.shared.change(name, action, by=by, reason=reason)
        if action == "open":
            circuit.force_open()
        else:
            circuit.reset()
        return circuit.status

    def _make(self, name: str, counts: Callable[[BaseException], bool] | None) -> Circuit | SharedCircuit:
        config = self.config_of(name)
        if self.shared is None or name in OWN:
            return Circuit(name, config, counts=counts, enabled=self._enabled)
        return SharedCircuit(self.shared, name, config, enabled=self._enabled)

    def _check(self, name: str) -> None:
        if not 0 < len(name) <= 200:
            raise ConfigurationError(f"a circuit needs a name of 1 to 200 characters, unlike {name[:250]!r}")
        if not self._auto_create and name not in self._configs:
            raise ConfigurationError(
                f"there is no circuit {name!r}",
                hint=f"give it a table circuit_breakers.component_configs.{name}, or set"
                " circuit_breakers.global_settings.auto_create_enabled",
            )
        # The process's own two never fail for want of room, and take none.
        if name not in OWN and len(self._circuits.keys() - OWN) >= self._max_circuits:
            raise ConfigurationError(
                f"{self._max_circuits} circuits exist; no room for {name!r}",
                hint="raise circuit_breakers.global_settings.max_circuit_breakers, or name fewer systems",
            )


__all__ = ["DEFAULTS", "Circuit", "CircuitBreakers", "CircuitConfig", "CircuitStatus", "SharedCircuit"]
