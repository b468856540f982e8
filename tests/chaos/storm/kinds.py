"""What can go wrong, by kind: each does one piece of harm at a time, and undoes what would never end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from abc import ABC, abstractmethod
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from random import Random
from typing import ClassVar

import psutil
import psycopg
from psycopg import sql

from tests.chaos.storm.arena import LEASE_SECONDS, STEP_WORKERS, Arena
from tests.chaos.storm.foreigner import Foreigner
from tests.chaos.storm.wall_clock import WallClock
from tests.waiting import wait_until


class Kind(ABC):
    """One kind of harm.

    Args:
        arena: to whom it is done.
        randomly: its choices.
    """

    name: ClassVar[str]
    proxied: ClassVar[bool] = False
    """Whether it needs the proxy."""

    all_results_are_reported: ClassVar[bool] = False
    """Whether nobody dies of it, so that each result that was not taken was refused."""

    pause: ClassVar[tuple[float, float]] = (0.2, 1.0)
    """Between two acts, in seconds."""

    def __init__(self, arena: Arena, randomly: Random) -> None:
        self.arena = arena
        self.random = randomly
        self.acts: Counter[str] = Counter()
        """What was done, and how often."""

    def prepare(self) -> None:  # noqa: B027 - most need nothing
        """Before the arena opens."""

    def begin(self) -> None:  # noqa: B027 - most need nothing
        """Once the processes run."""

    @abstractmethod
    def act(self) -> None:
        """Do harm once."""

    def calm(self) -> None:  # noqa: B027 - most leave nothing behind
        """Undo what would never end by itself."""

    def after_the_end(self) -> None:  # noqa: B027 - most are over by then
        """Once all tasks have ended."""

    @property
    def refused(self) -> int:
        """Stale results that this kind itself sent, or saw refused."""
        return 0


class KillChildren(Kind):
    """kill -9 of the processes of a pool, which run the handlers."""

    name = "kill executor children"
    pause = (0.3, 1.2)

    def act(self) -> None:
        children = self.arena.process("forked").children()
        if children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(children).pid, signal.SIGKILL)
                self.acts["children"] += 1


class KillWorkers(Kind):
    """kill -9 of whole workers; they are started again."""

    name = "kill step workers"
    pause = (1.5, 3.5)

    def act(self) -> None:
        role = self.random.choice([*STEP_WORKERS])
        self.arena.kill(role)
        self.acts[f"worker ({role})"] += 1


class KillOrchestration(Kind):
    """kill -9 of the orchestration worker, of beat, and of ticks."""

    name = "kill orchestration, beat, ticks"
    pause = (0.1, 0.5)

    def begin(self) -> None:
        self.arena.start_ticker("ticker1")
        self.arena.start_ticker("ticker2")

    def act(self) -> None:
        what = self.random.choices(["tick", "beat", "orchestration"], [6, 1, 1.5])[0]
        if what == "tick":
            self.arena.kill_ticker(self.random.choice(["ticker1", "ticker2"]))
        else:
            self.arena.kill(what)
            # What it did comes to life again before it is killed again.
            time.sleep(self.random.uniform(0.5, 2))
        self.acts[what] += 1


class StopServer(Kind):
    """PostgreSQL killed, or shut down at once; and started again."""

    name = "kill PostgreSQL"
    pause = (0.6, 2.5)

    def act(self) -> None:
        if self.random.random() < 0.5:
            self.arena.server.kill()
            self.acts["kill -9"] += 1
        else:
            self.arena.server.stop_at_once()
            self.acts["immediate shutdown"] += 1
        if self.random.random() < 0.3:
            # Away for a while: circuits open, waits grow.
            time.sleep(self.random.uniform(0.5, 2))
        self.arena.server.revive()

    def calm(self) -> None:
        self.arena.server.revive()


class Freeze(Kind):
    """A worker that stands still for longer than its lease, and then goes on as if nothing had happened."""

    name = "freeze past the lease"
    all_results_are_reported = True
    pause = (0.3, 1.0)

    def act(self) -> None:
        role = self.random.choice([*STEP_WORKERS])
        hostname = f"{self.arena.process(role).name}@test"
        frozen = self.arena.tree(role)
        try:
            for process in frozen:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()
            self.acts[f"frozen ({role})"] += 1
            wait_until(lambda: self._lost(hostname), f"{hostname} to count as lost")
            # Others take over, and end much of it, before it wakes up.
            time.sleep(self.random.uniform(0, LEASE_SECONDS))
        finally:
            for process in reversed(frozen):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def _lost(self, hostname: str) -> bool:
        living = self.arena.value(
            "SELECT count(*) FROM tasker.executors WHERE worker = %s AND lost_at IS NULL", hostname
        )
        return bool(living == 0)


class Cut(Kind):
    """Connections that are cut at any byte, of the statement or of its answer, or stay open and never answer."""

    name = "cut connections"
    proxied = True
    pause = (0.5, 2.0)
    _LIFETIMES = (0.15, 0.5, 1.0, 3.0)

    def act(self) -> None:
        assert self.arena.proxy is not None
        self.acts = self.arena.proxy.cut(self.random.choice(self._LIFETIMES))

    def calm(self) -> None:
        assert self.arena.proxy is not None
        self.acts = self.arena.proxy.cut(0)


class Messages(Kind):
    """Results that come twice, in another order, late, or of nobody's run; and completions that are repeated."""

    name = "duplicate, reordered, late results"
    pause = (0.0, 0.05)

    def begin(self) -> None:
        self._foreigner = Foreigner(self.arena, self.random)

    def act(self) -> None:
        self._foreigner.act()
        self.acts = self._foreigner.acts

    def calm(self) -> None:
        self._foreigner.end()

    def after_the_end(self) -> None:
        self._foreigner.after_the_end()
        self.acts = self._foreigner.acts

    @property
    def refused(self) -> int:
        return self._foreigner.refused


class Clock(Kind):
    """The engine's clock jumps, forward and back, for one connection and not for another."""

    name = "clock jumps"
    pause = (0.2, 0.8)
    _MOST_SECONDS = 7200.0

    def prepare(self) -> None:
        self._latest = 0.0
        self._wall = WallClock(self.arena.folder)
        self.arena.cluster.env.update(self._wall.environment())

    def act(self) -> None:
        seconds = self.random.choice([0.0, self.random.uniform(-self._MOST_SECONDS, self._MOST_SECONDS)])
        # It may count although the answer does not arrive.
        self._latest = max(self._latest, seconds)
        with contextlib.suppress(psycopg.OperationalError):  # no server now
            self._set(seconds)
            self._renew_connections(self.random.uniform(0.2, 0.8))
            self.acts["engine"] += 1
        if self._wall.can_be_set:
            self._wall.jump(round(self.random.uniform(-self._MOST_SECONDS, self._MOST_SECONDS)))
            self.acts["workers' wall clock"] += 1

    def calm(self) -> None:
        # What was put off until then by a clock that was ahead is due then, and not before: so no clock may end behind.
        self._set(self._latest)
        self._renew_connections(1)

    def _set(self, seconds: float) -> None:
        with self.arena.connection() as connection:
            (name,) = connection.execute("SELECT current_database()").fetchone() or ("",)
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET tasker.clock_offset = {}").format(
                    sql.Identifier(name), sql.Literal(f"{seconds} seconds")
                )
            )

    def _renew_connections(self, share: float) -> None:
        with self.arena.connection() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < %s",
                [share],
            )


class FullDisk(Kind):
    """A disk without room, for tables and for the log of PostgreSQL alike."""

    name = "full disk"
    pause = (0.5, 2.0)

    def act(self) -> None:
        self.arena.server.fill()
        self.acts[self.arena.server.way_to_fill] += 1
        try:
            time.sleep(self.random.uniform(0.3, 2.0))
        finally:
            self.calm()

    def calm(self) -> None:
        self.arena.server.make_room()
        # A log that could not be written ends the server, and this one also its own restart.
        self.arena.server.revive()

    def after_the_end(self) -> None:
        self.acts["statements refused"] = self.arena.log_count("No space left on device|File too large")


class Everything(Kind):
    """All kinds, several at a time."""

    name = "everything at once"
    proxied = True
    pause = (0.05, 0.4)
    _KINDS: ClassVar[tuple[type[Kind], ...]] = (
        KillChildren, KillWorkers, KillOrchestration, StopServer, Freeze, Cut, Messages, Clock, FullDisk,
    )  # fmt: skip
    _WEIGHTS = (6, 2, 6, 2, 1, 4, 30, 3, 1)
    _AT_ONCE = 3

    def prepare(self) -> None:
        # Each draws from a source of its own, as their order is the machine's.
        self._kinds = [kind(self.arena, Random(f"{self.random.random()}")) for kind in self._KINDS]
        for kind in self._kinds:
            kind.prepare()

    def begin(self) -> None:
        self._pool = ThreadPoolExecutor(self._AT_ONCE)
        self._busy: dict[int, Future[None]] = {}
        for kind in self._kinds:
            kind.begin()

    def act(self) -> None:
        for number, done in list(self._busy.items()):
            if done.done():
                self._busy.pop(number).result()
        number = self.random.choices(range(len(self._kinds)), self._WEIGHTS)[0]
        if number not in self._busy and len(self._busy) < self._AT_ONCE:
            self._busy[number] = self._pool.submit(self._kinds[number].act)

    def calm(self) -> None:
        self._pool.shutdown()
        for done in self._busy.values():
            done.result()
        for kind in reversed(self._kinds):
            kind.calm()

    def after_the_end(self) -> None:
        for kind in self._kinds:
            kind.after_the_end()
        self.acts = Counter({f"{kind.name}: {what}": n for kind in self._kinds for what, n in kind.acts.items()})

    @property
    def refused(self) -> int:
        return sum(kind.refused for kind in self._kinds)


KINDS: dict[str, type[Kind]] = {
    "children": KillChildren,
    "workers": KillWorkers,
    "orchestration": KillOrchestration,
    "server": StopServer,
    "freeze": Freeze,
    "cut": Cut,
    "messages": Messages,
    "clock": Clock,
    "disk": FullDisk,
    "everything": Everything,
}
