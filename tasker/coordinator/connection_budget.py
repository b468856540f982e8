"""``ConnectionBudget``: whether all processes together can want more connections than the server has.

A server that runs out of connections refuses whoever comes next, often the heartbeat of an executor that works well. So
the sum is drawn before anything starts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from tasker.config.settings import Settings
from tasker.errors import ConfigurationError

logger = logging.getLogger(__name__)

SMALLEST_POOL = 2
"""One connection for work, one for heartbeats; below that an executor can count as lost while it works."""


@dataclass(frozen=True, slots=True)
class ConnectionDemand:
    """What one kind of process can take at most.

    Attributes:
        holder: who, in words.
        processes: how many there can be.
        pool: size of each one's pool; the part that can be made smaller.
        fixed: connections of each one outside the pool: its listener, its sessions with the broker.
    """

    holder: str
    processes: int
    pool: int
    fixed: int = 0

    @property
    def total(self) -> int:
        """Connections of all processes of this kind."""
        return self.processes * (self.pool + self.fixed)

    def __str__(self) -> str:
        return f"{self.holder}: {self.processes} × ({self.pool} + {self.fixed}) = {self.total}"


@dataclass(frozen=True, slots=True)
class ConnectionBudget:
    """The sum of all demands beside what the server has.

    Attributes:
        demands: who can take how many.
        available: connections that the server has for us.
        resource_validation: what to do when they do not suffice: ``fail_fast``, ``degraded`` or ``best_effort``.
    """

    demands: tuple[ConnectionDemand, ...]
    available: int
    resource_validation: str

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        max_connections: int,
        reserved_connections: int = 3,
        transport_connections: int = 0,
        others: Iterable[ConnectionDemand] = (),
    ) -> Self:
        """The budget of what ``settings`` allow to run at once, over all workers.

        Each step executor counts as a process, as it is on prefork. So does each loop of orchestration executors, which
        holds all kinds. One process more stands for a client: a command, beat.

        Args:
            settings: the executors, the pool and whether processes listen.
            max_connections: what the server (or the role, or the database) allows.
            reserved_connections: of these, what is kept for superusers and the like.
            transport_connections: sessions of one process with a broker on the same database; 0 with another broker.
            others: further demands, of programs that share the server.
        """
        pools = settings.executor_pools
        pool = settings.database.pool.max_connections
        fixed = int(settings.pgmq.notify_enabled) + transport_connections
        loops = max(each.max_executors for kind, each in pools.by_kind() if kind != "step_executor")
        demands = (
            ConnectionDemand("step executors", pools.step_executor.max_executors, pool, fixed),
            ConnectionDemand("orchestration executors", loops, pool, fixed),
            ConnectionDemand("web server", 1, settings.web.database_pool.max_connections),
            ConnectionDemand("clients", 1, pool, fixed),
            *others,
        )
        return cls(demands, max(0, max_connections - reserved_connections), settings.database.resource_validation)

    @property
    def demanded(self) -> int:
        """Connections that all can take at most."""
        return sum(demand.total for demand in self.demands)

    @property
    def fits(self) -> bool:
        """Whether the server has them."""
        return self.demanded <= self.available

    @property
    def largest_pool_that_fits(self) -> int:
        """The size that no pool may exceed for the sum to fit; below ``SMALLEST_POOL`` none is small enough."""
        sizes = range(max((demand.pool for demand in self.demands), default=0), 0, -1)
        return next((size for size in sizes if self._demanded_at(size) <= self.available), 0)

    @property
    def advice(self) -> str | None:
        """What to do where the server has too few."""
        return None if self.fits else self._advice()

    def enforce(self) -> int | None:
        """Do what ``database.resource_validation`` says when the server has too few connections.

        Returns:
            The size that no pool may exceed, or ``None`` where pools may be as large as configured.

        Raises:
            ConfigurationError: it says ``fail_fast``.
        """
        if self.fits:
            return None
        message = (
            f"up to {self.demanded} connections can be wanted, and the database has {self.available} for them"
            f" ({'; '.join(map(str, self.demands))})"
        )
        hint = self._advice()
        if self.resource_validation == "fail_fast":
            raise ConfigurationError(message, hint=hint, field="database.resource_validation")
        if self.resource_validation == "best_effort":
            logger.warning("%s; %s", message, hint)
            return None
        cap = max(SMALLEST_POOL, self.largest_pool_that_fits)
        enough = "which fits" if self._demanded_at(cap) <= self.available else "which is still too many"
        logger.warning("%s; pools are capped at %d, %s; %s", message, cap, enough, hint)
        return cap

    def _demanded_at(self, pool: int) -> int:
        return sum(demand.processes * (min(demand.pool, pool) + demand.fixed) for demand in self.demands)

    def _advice(self) -> str:
        fitting = self.largest_pool_that_fits
        lower = f"lower database.pool.max_connections to {fitting}, or" if fitting >= SMALLEST_POOL else "lower"
        return f"{lower} executor_pools.*.max_executors, or raise the server's max_connections"
