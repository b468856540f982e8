"""What one Celery worker shares with its pool: how to stop and to yield, what its slots host, what becomes of that."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from tasker.errors import ConfigurationError
from tasker.executors.stop import StopSignal
from tasker.hosting.event_pipe import EventPipe
from tasker.hosting.roles import Role
from tasker.hosting.shared import SharedByte
from tasker.hosting.tally import Board
from tasker.hosting.yielding import YieldPipe


@dataclass
class WorkerHost:
    """One Celery worker as a host of executors; made in its main process before the first fork.

    Args:
        hostname: Celery's name of the worker.
        pool: ``prefork``, ``threads`` or ``solo``.
        executor_slots: how many of its slots executors may take.
        spare_slots: how many they leave to ordinary tasks.
        roles: what the slots host.
        every_queue_but: of a worker started without ``-Q``: the queues that are not its own, while all others are,
            those of new namespaces too; ``None`` for one started with ``-Q``.
    """

    hostname: str
    pool: str
    executor_slots: int
    spare_slots: int = 0
    roles: tuple[Role, ...] = ()
    every_queue_but: frozenset[str] | None = None
    stop: StopSignal = field(default_factory=StopSignal)
    yields: YieldPipe = field(default_factory=YieldPipe)
    board: Board = field(default_factory=Board)
    events: EventPipe = field(default_factory=EventPipe)
    detached: SharedByte = field(default_factory=SharedByte)
    """1 while the consumer is between two broker connections: nobody could start a successor, so carry on."""

    cold: SharedByte = field(default_factory=SharedByte)
    """1 once the worker is to end cold: executors, told to stop, get little time for what still runs."""

    pool_ended: bool = False
    """Set once nothing runs any more, and nothing is left to do but to say good-bye."""

    max_memory_kb: int = 0
    """A pool process that uses more is replaced, after its executor's run; 0: never."""

    graceful_seconds: float = 30.0
    """How long handlers may go on at a warm end."""

    emergency_seconds: float = 5.0
    """The same at a cold one."""

    main_loop: Callable[[], Collection[int]] = tuple
    """The descriptors that the worker's main loop reads. In a solo pool the executor yields when one is readable."""

    namespaces: tuple[str, ...] = ()
    """The namespaces there were at the last heartbeat."""

    pid: int = field(default_factory=os.getpid)

    def is_leaving(self) -> bool:
        """Whether nothing is left to do but to say good-bye."""
        return self.pool_ended

    def resize(self, size: int, spare: int) -> None:
        """The pool has so many slots: executors take all but ``spare`` of them, and one at least."""
        self.executor_slots = max(1, size - spare)
        self.spare_slots = size - self.executor_slots

    def leave_out(self, queue: str) -> None:
        """Somebody had the worker cancel the consumer of this queue: it is not its own any more."""
        if self.every_queue_but is not None:
            self.every_queue_but |= {queue}

    def also_consumed(self, queues: Iterable[str]) -> set[str]:
        """Those of ``queues`` that a worker without ``-Q`` consumes beside what Celery's settings name."""
        return set() if self.every_queue_but is None else set(queues) - self.every_queue_but


_hosts: dict[str, WorkerHost] = {}


def add_host(host: WorkerHost) -> None:
    """Make ``host`` known under its hostname to this process and to all it forks."""
    _hosts[host.hostname] = host


def find_host(hostname: str) -> WorkerHost | None:
    """The worker of that name that runs in this process or forked it."""
    return _hosts.get(hostname)


def host_of(hostname: str) -> WorkerHost:
    """The worker of that name that runs in this process or forked it.

    Raises:
        ConfigurationError: there is none: the process was not forked from the worker.
    """
    host = _hosts.get(hostname)
    if host is None:
        raise ConfigurationError(
            f"this process is not a fork of worker {hostname}, so it could not be told to stop",
            hint="use worker_pool = 'prefork' with worker_pool_start_method = 'fork', or the pools threads and solo",
        )
    return host
