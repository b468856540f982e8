"""The brokers on which the same tests run, and the worker processes of those tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg
from celery import Celery

from tasker.messaging.transport.address import broker_url_of
from tests.e2e.foreign.redis_server import REDIS_URL, close, close_leftovers, forget, redis_or_skip
from tests.e2e.parity_app import LOG_VARIABLE, SETTINGS_VARIABLE, make_app
from tests.waiting import wait_until

DEADLINE_SECONDS = 60.0
BROKERS = ("pgmq", "redis")


class Side:
    """One broker with a place of its own, the program that sends to it, and the log that its tasks write."""

    def __init__(self, kind: str, database_url: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.log = folder / "log"
        self.log.touch()
        self._database_url = database_url
        self._redis = redis_or_skip() if kind == "redis" else None
        self._prefix = f"parity-{uuid.uuid4().hex[:10]}-"
        if self._redis is not None:
            self.settings: dict[str, Any] = {
                "broker_url": REDIS_URL,
                "broker_transport_options": {
                    "global_keyprefix": self._prefix,
                    "client_name": self._prefix,
                },
                "result_backend": REDIS_URL,
                "result_backend_transport_options": {"global_keyprefix": self._prefix},
            }
        else:
            self.settings = {
                "broker_url": broker_url_of(database_url),
                "broker_transport_options": {"housekeeping_interval": 0.3},
                "result_backend": "db+" + database_url.replace("postgresql://", "postgresql+psycopg://"),
            }
        self.app: Celery = make_app(self.settings)

    def close(self) -> None:
        """Leave nothing behind."""
        close(self.app)
        if self._redis is not None:
            forget(self._redis, self._prefix)
            close_leftovers()
        else:
            self.app.backend.ResultSession().get_bind().dispose()

    def send(self, task: str, *arguments: object, **options: Any) -> str:
        """Send a task; its id."""
        return str(self.app.send_task(task, arguments, **options).id)

    def lines(self, begin: str = "") -> list[str]:
        """What tasks wrote that begins so."""
        return [line for line in self.log.read_text().splitlines() if line.startswith(begin)]

    def waiting(self, queue: str = "celery") -> int:
        """Messages of a queue that no worker holds."""
        if self._redis is not None:  # kombu forgets the prefix when it asks for the size
            lists = [f"{self._prefix}{queue}{priority}" for priority in ("", *(f"\x06\x16{n}" for n in (3, 6, 9)))]
            return sum(int(self._redis.llen(name)) for name in lists)
        with self.app.connection_for_read() as connection:
            return int(connection.default_channel.queue_declare(queue, passive=True).message_count)

    def held(self) -> int:
        """Messages that workers hold."""
        if self._redis is not None:
            return int(self._redis.hlen(f"{self._prefix}unacked"))
        return int(self._rows("SELECT count(*) FROM pgmq.q_celery_celery WHERE vt > now()")[0][0])

    def cut_connections(self) -> None:
        """End all connections to the broker, as a server that restarts does."""
        if self._redis is not None:
            for client in self._redis.client_list():
                if client["name"] == self._prefix:
                    self._redis.client_kill_filter(_id=client["id"])
        else:
            self._rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'tasker-broker' AND datname = current_database()"
            )

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._database_url) as connection:
            return connection.execute(query).fetchall()

    def start(self, name: str, *arguments: str, pool: str = "prefork", slots: int = 2, **settings: Any) -> Worker:
        """A worker process; ``settings`` on top of those of this side."""
        return Worker(self, name, [f"--pool={pool}", f"--concurrency={slots}", *arguments], settings)


class Worker:
    """A real worker process; killed with its children at the end of the block, if it still runs."""

    def __init__(self, side: Side, name: str, arguments: list[str], settings: dict[str, Any]) -> None:
        self.side = side
        self.nodename = f"{name}@parity"
        self.output = side.folder / f"{name}.out"
        environment = {SETTINGS_VARIABLE: json.dumps(side.settings | settings), LOG_VARIABLE: str(side.log)}
        command = ["-A", "tests.e2e.parity_app", "worker", "-n", self.nodename, "-l", "INFO", "--without-mingle"]
        with self.output.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", *command, *arguments],
                env={**os.environ, **environment},
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ready(self) -> Worker:
        """Wait until it takes work."""

        def says_ready() -> bool:
            assert self.process.poll() is None, self.output.read_text()
            return f"{self.nodename} ready." in self.output.read_text()

        wait_until(says_ready, f"{self.nodename} to be ready")
        return self

    def inspect(self, command: str) -> Any:
        """Its answer."""
        answers = getattr(self.side.app.control.inspect([self.nodename], timeout=10), command)()
        assert answers is not None, f"no answer to {command}: {self.output.read_text()}"
        return answers[self.nodename]

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Tell it to stop; how it ended."""
        self.process.send_signal(signal_number)
        return self.process.wait(DEADLINE_SECONDS)

    def kill(self) -> None:
        """kill -9, with its children."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(DEADLINE_SECONDS)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if error is not None:
            print(self.output.read_text())
