"""Named circuit breakers of one process: after repeated failures a component is left alone for a while.

pybreaker does the counting; this module gives each circuit a name, a configuration and one kind of error. State is kept
in memory, through pybreaker's storage interface, so that shared storage needs no change here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pybreaker

from tasker.errors import CircuitOpen

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CircuitConfig:
    """When a circuit opens and closes.

    Attributes:
        failure_threshold: failures in a row that open it.
        timeout_seconds: how long it stays open before one call may try again.
        success_threshold: successes in a row that close it again.
    """

    failure_threshold: int = 5
    timeout_seconds: float = 30
    success_threshold: int = 2


DEFAULTS: Mapping[str, CircuitConfig] = {
    # Connecting fails fast and is tried by a few threads only: a database that is back shall be noticed at once.
    "database": CircuitConfig(failure_threshold=5, timeout_seconds=2, success_threshold=1),
    "pgmq": CircuitConfig(failure_threshold=5, timeout_seconds=2, success_threshold=1),
}
"""What differs from ``CircuitConfig()`` where the settings say nothing."""


class Circuit:
    """One circuit, for any number of threads.

    pybreaker's ``call`` would hold a lock during the guarded call and so let one thread in at a time; its ``calling``
    does not, hence everything goes through that.
    """

    def __init__(
        self, name: str, config: CircuitConfig, *, counts: Callable[[BaseException], bool] | None = None
    ) -> None:
        self.name = name
        self.config = config
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=config.failure_threshold,
            reset_timeout=config.timeout_seconds,
            success_threshold=config.success_threshold,
            exclude=[] if counts is None else [lambda error: not counts(error)],
            # The call that opens the circuit shows its own error; only later ones are refused.
            throw_new_error_on_trip=False,
            name=name,
        )

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half_open``."""
        return str(self._breaker.current_state).replace("-", "_")

    @property
    def failures(self) -> int:
        """Failures since the last success."""
        return int(self._breaker.fail_counter)

    def call(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """``function(*args, **kwargs)``, counted.

        Raises:
            CircuitOpen: the circuit is open; the function was not called.
        """
        with self.guard():
            return function(*args, **kwargs)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Count what happens inside the ``with`` block.

        Raises:
            CircuitOpen: the circuit is open; the block does not run.
        """
        try:
            with self._breaker.calling():
                yield
        except pybreaker.CircuitBreakerError as error:
            raise CircuitOpen(
                f"circuit {self.name} is open after {self.config.failure_threshold} failures",
                hint=f"it lets a call try again within {self.config.timeout_seconds:g} s",
                retry_after_seconds=self.config.timeout_seconds,
            ) from error

    def reset(self) -> None:
        """Close it now, as an operator who knows that the cause is gone."""
        self._breaker.close()


class CircuitBreakers:
    """The circuits of a process, made on first use.

    Args:
        configs: settings by name; names without an entry use ``DEFAULTS``, then ``CircuitConfig()``.
        max_circuits: how many there may be; the number bounds what is shown and measured by name.
    """

    def __init__(self, configs: Mapping[str, CircuitConfig] | None = None, *, max_circuits: int = 100) -> None:
        self._configs = {**DEFAULTS, **(configs or {})}
        self._max_circuits = max_circuits
        self._lock = threading.Lock()  # owns _circuits
        self._circuits: dict[str, Circuit] = {}

    def get(self, name: str, *, counts: Callable[[BaseException], bool] | None = None) -> Circuit:
        """The circuit called ``name``.

        Args:
            name: of the component, or of the external system.
            counts: which errors are the component's failures (all, when ``None``); heeded when the circuit is made.

        Raises:
            ValueError: there are as many circuits as allowed, and this would be another.
        """
        with self._lock:
            circuit = self._circuits.get(name)
            if circuit is None:
                if len(self._circuits) >= self._max_circuits:
                    raise ValueError(f"{self._max_circuits} circuits exist; no room for {name!r}")
                config = self._configs.get(name, CircuitConfig())
                circuit = self._circuits[name] = Circuit(name, config, counts=counts)
            return circuit

    def states(self) -> dict[str, str]:
        """Name → state, for health and the command line."""
        with self._lock:
            return {name: circuit.state for name, circuit in sorted(self._circuits.items())}
