"""Where a storm takes place: a database, Celery processes that are started again when they die, and work for them."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg
import sqlalchemy.exc
from psycopg import conninfo

from tasker.database.connection import is_connection_lost
from tasker.errors import TaskerError
from tests.chaos.storm import effects, shapes
from tests.chaos.storm.cutting_proxy import ROOT, CuttingProxy
from tests.chaos.storm.server import StormServer
from tests.e2e.harness import CeleryProcess, Cluster

MARK_VARIABLE = "TASKER_CHAOS_MARK"
"""Environment variable that all processes of one arena carry, by which those that are left are found."""

HEARTBEAT_SECONDS = 0.5
LEASE_SECONDS = 2.0

_IMPATIENT = {
    "TASKER_DATABASE__STATEMENT_TIMEOUT_MS": "3000",
    "TASKER_DATABASE__ANSWER_TIMEOUT_SECONDS": "4",
    "TASKER_DATABASE__CONNECTION_TIMEOUT_SECONDS": "3",
}
"""Where connections may fall silent: several of them, one after the other, within the patience of a storm."""

_BATCH = 20
_BY_QUEUE = 10
"""One task in this many is requested by a message instead of a call."""

STEP_WORKERS: Mapping[str, tuple[str, ...]] = {
    "forked": ("-Q", shapes.NAMESPACE, "-P", "prefork", "-c", "2"),
    "threaded": ("-Q", shapes.NAMESPACE, "-P", "threads", "-c", "2"),
}
ORCHESTRATION = ("-Q", "orchestration", "-P", "threads", "-c", "1")


class Arena:
    """One database, its processes and its tasks.

    Args:
        server: where the database is.
        folder: of logs, and the working directory of all processes.
        tasks: how many there shall be.
        seed: of everything that is left to chance.
        proxied: whether the workers, and whoever creates tasks, reach PostgreSQL through a proxy that can cut.
    """

    def __init__(self, server: StormServer, folder: Path, *, tasks: int, seed: str, proxied: bool = False) -> None:
        self.server = server
        self.folder = folder
        self.tasks = tasks
        self.random = random.Random(f"{seed} arena")
        self.mark = uuid.uuid4().hex
        self.book = folder / "effects.txt"
        self.url = server.databases.create()
        """Of the database, straight."""

        self.proxy = CuttingProxy(server.socket, f"{seed} proxy") if proxied else None
        self.cluster = Cluster(self._workers_url(), folder, self._environment())
        self._roles: dict[str, CeleryProcess] = {}
        self._tickers: dict[str, subprocess.Popen[bytes]] = {}
        self.restarts = 0
        self._stop_creating = threading.Event()
        self._creator = threading.Thread(target=self._create_all, name="creator")
        self.created = 0
        self.failures_to_create = 0
        self.unexpected: list[str] = []
        self._stale: dict[uuid.UUID, int] = {}

    def _workers_url(self) -> str:
        if self.proxy is None:
            return self.url
        database = conninfo.conninfo_to_dict(self.url)["dbname"]
        # As each attempt may meet a cut or a server that is away, none may take long.
        return f"postgresql://postgres@127.0.0.1:{self.proxy.port}/{database}?sslmode=disable&gssencmode=disable"

    def _environment(self) -> dict[str, str]:
        return {
            MARK_VARIABLE: self.mark,
            effects.BOOK_VARIABLE: str(self.book),
            "TASKER_ENGINE__HANDLER_MODULES": "tests.chaos.storm.shapes",
            "TASKER_ORCHESTRATION__HEARTBEAT_INTERVAL_SECONDS": str(HEARTBEAT_SECONDS),
            "TASKER_ORCHESTRATION__EXECUTOR_LEASE_SECONDS": str(LEASE_SECONDS),
            "TASKER_ORCHESTRATION__HEALTH_CHECK_INTERVAL_SECONDS": "0.5",
            "TASKER_ORCHESTRATION__EXECUTOR_LIFETIME_SECONDS": "20",
            # What a dead process had claimed, or had read, is continued within the patience of a storm.
            **{
                f"TASKER_EXECUTOR_POOLS__{kind}__PROCESSING_TIMEOUT_MS": "4000"
                for kind in ("TASK_FINALIZER", "TASK_CLAIMER", "TASK_REQUEST_PROCESSOR", "STEP_RESULT_PROCESSOR")
            },
            "TASKER_ORCHESTRATION__FINALIZATION_CLAIM_TIMEOUT_SECONDS": "5",
            "TASKER_ORCHESTRATION__DEFAULT_CLAIM_TIMEOUT_SECONDS": "5",
            "TASKER_PGMQ__VISIBILITY_TIMEOUT_SECONDS": "5",
            # Here a message may meet many deaths, none of which is its fault.
            "TASKER_PGMQ__MAX_RECEIVE_COUNT": "100",
            **(_IMPATIENT if self.proxy is not None else {}),
        }

    # -- processes ------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start all processes, and wait until steps can be run."""
        self.cluster.register(*shapes.WORKFLOWS.values())
        for role, arguments in STEP_WORKERS.items():
            self.start(role, *arguments)
        self.start("orchestration", *ORCHESTRATION)
        self.start_beat()
        self.cluster.wait_for_executors(4)
        self._creator.start()

    def start(self, role: str, *arguments: str) -> CeleryProcess:
        """Start the worker of that role."""
        name = f"{role}{len(self.cluster.processes)}"
        self._roles[role] = self.cluster.worker(*arguments, name=name, ready=False)
        return self._roles[role]

    def start_beat(self) -> CeleryProcess:
        """Start a beat."""
        name = f"beat{len(self.cluster.processes)}"
        arguments = ["beat", "-l", "info", "-s", str(self.folder / f"{name}.schedule")]
        self._roles["beat"] = self.cluster._start(name, arguments)
        return self._roles["beat"]

    def start_ticker(self, role: str) -> None:
        """Start a process that only ticks."""
        with (self.folder / f"{role}.log").open("ab") as log:
            self._tickers[role] = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.storm.ticker"],
                cwd=ROOT,
                env={**self.cluster.env, "TASKER_ORCHESTRATION__HEALTH_CHECK_INTERVAL_SECONDS": "0.01"},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def process(self, role: str) -> CeleryProcess:
        """The present process of that role."""
        return self._roles[role]

    def kill(self, role: str) -> None:
        """kill -9 of the process of that role."""
        self._roles[role].kill_all()

    def kill_ticker(self, role: str) -> None:
        """kill -9 of a process that only ticks."""
        self._end_ticker(self._tickers[role])

    def mind(self) -> None:
        """Start again whatever has died, as a service manager does."""
        for role, process in list(self._roles.items()):
            if process.running:
                continue
            self.restarts += 1
            if role == "beat":
                self.start_beat()
            else:
                self.start(role, *(ORCHESTRATION if role == "orchestration" else STEP_WORKERS[role]))
        for role, ticker in list(self._tickers.items()):
            if ticker.poll() is not None:
                self._end_ticker(ticker)
                self.start_ticker(role)

    def tree(self, role: str) -> list[psutil.Process]:
        """The process of that role and all its descendants."""
        with contextlib.suppress(psutil.NoSuchProcess):
            main = psutil.Process(self._roles[role].pid)
            return [main, *main.children(recursive=True)]
        return []

    def log_count(self, pattern: str) -> int:
        """How often the pattern is found in the logs of all processes there were."""
        return sum(len(re.findall(pattern, process.log)) for process in self.cluster.processes)

    # -- work -----------------------------------------------------------------------------------------------------

    def request_of(self, n: int) -> dict[str, Any]:
        """Task number ``n``, as its creator asks for it, however often."""
        return {
            "namespace": shapes.NAMESPACE,
            "name": shapes.shape_of(n),
            "context": {"n": n},
            "identity_key": f"storm-{n}",
        }

    def pace(self, seconds: float) -> None:
        """Spread the creation of all tasks over about that time; set before ``open``."""
        self._pause = seconds * _BATCH / self.tasks

    _pause = 0.0

    def _create_all(self) -> None:
        """Create all tasks, batch by batch, each as often as it takes to be sure."""
        for first in range(0, self.tasks, _BATCH):
            batch = range(first, min(first + _BATCH, self.tasks))
            by_call = [self.request_of(n) for n in batch if n % _BY_QUEUE]
            self._insist(partial(self.cluster.client.create_many, by_call))
            for n in batch:
                if n % _BY_QUEUE == 0:
                    self._insist(partial(self._send_request, n))
            self.created = batch.stop
            if self._stop_creating.wait(self._pause * self.random.uniform(0.5, 1.5)):
                return

    def _send_request(self, n: int) -> None:
        with self.cluster.database.connect() as connection:
            request = psycopg.types.json.Jsonb(self.request_of(n))
            connection.execute("SELECT pgmq.send('task_requests_queue', %s)", [request])

    def _insist(self, create: Callable[[], object]) -> None:
        while not self._stop_creating.is_set():
            try:
                create()
                return
            except (psycopg.Error, sqlalchemy.exc.DBAPIError, TaskerError) as error:
                # Out of room, or no server: whoever creates tasks has to try again. All else is a finding.
                self.failures_to_create += 1
                if not passes(error):
                    self.unexpected.append(f"{type(error).__name__}: {error}")
                self._stop_creating.wait(self.random.uniform(0.02, 0.2))

    # -- looking --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection of the storm's own, never through the proxy."""
        with psycopg.connect(self.url, autocommit=True, connect_timeout=10) as connection:
            yield connection

    def value(self, query: str, *parameters: object) -> Any:
        """The one value that the database says; ``None`` while it says nothing."""
        try:
            with self.connection() as connection:
                row = connection.execute(query.encode(), parameters).fetchone()
                return row[0] if row else None
        except psycopg.OperationalError:
            return None

    def note_counters(self) -> None:
        """Read what the executors of results that came by message have refused so far: their rows go when they do."""
        with contextlib.suppress(psycopg.OperationalError), self.connection() as connection:
            for executor, stale in connection.execute(
                "SELECT executor, coalesce((counters->>'stale')::integer, 0) FROM tasker.executors"
                " WHERE kind = 'step_result_processor'"
            ):
                self._stale[executor] = stale

    @property
    def refused(self) -> int:
        """Stale results that executors refused, by their heartbeats (those that came by message) and their logs."""
        return sum(self._stale.values()) + self.log_count(r": outcome refused, ")

    @property
    def all_ended(self) -> bool:
        """Whether all tasks were created, and all have ended and been finalized."""
        if self.created < self.tasks:
            return False
        ended = self.value(
            "SELECT count(*) FILTER (WHERE finished_at IS NOT NULL AND finalized_at IS NOT NULL) FROM tasker.tasks"
        )
        return ended is not None and ended >= self.tasks

    # -- the end --------------------------------------------------------------------------------------------------

    def stop_creating(self) -> None:
        """Give up creating tasks, if that still goes on."""
        self._stop_creating.set()
        if self._creator.ident is not None:
            self._creator.join()

    def end_processes(self) -> None:
        """End all processes, however they do."""
        for ticker in self._tickers.values():
            self._end_ticker(ticker)
        self._tickers = {}
        self.cluster.close()

    def left(self) -> list[str]:
        """Processes of this arena that still run."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK_VARIABLE) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
        return found

    def close(self) -> None:
        """End all that is there, and drop the database."""
        self.stop_creating()
        try:
            self.end_processes()
        finally:
            for pid in psutil.pids():
                with contextlib.suppress(psutil.Error, ProcessLookupError):
                    if psutil.Process(pid).environ().get(MARK_VARIABLE) == self.mark:
                        os.kill(pid, signal.SIGKILL)
            if self.proxy is not None:
                self.proxy.close()
            self.server.revive()
            self.server.databases.drop(self.url)

    @staticmethod
    def _end_ticker(ticker: subprocess.Popen[bytes]) -> None:
        ticker.kill()
        ticker.wait()
        assert ticker.stdin is not None
        with contextlib.suppress(OSError):
            ticker.stdin.close()


_PASSING = ("08", "40", "53", "55", "57")


def passes(error: BaseException) -> bool:
    """Whether an error is one that a storm explains: no connection, no room, a lock or a statement that took long."""
    cause: BaseException | None = error
    while cause is not None:
        # PostgreSQL knows no SQLSTATE of its own for a file that may not grow.
        if is_connection_lost(cause) or "File too large" in str(cause):
            return True
        if isinstance(cause, psycopg.Error) and (cause.sqlstate or "")[:2] in _PASSING:
            return True
        cause = cause.__cause__ or getattr(cause, "orig", None)
    return False
