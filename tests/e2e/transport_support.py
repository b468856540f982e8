"""Worker processes for the tests of the transport, and what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg
from celery import Celery

from tasker.messaging.transport.address import broker_url_of
from tests.e2e.transport_app import BROKER_VARIABLE, LOG_VARIABLE
from tests.waiting import wait_until

DEADLINE_SECONDS = 30.0


class Broker:
    """A database as broker, the program that sends to it, and the log that its tasks write."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.database_url = database_url
        self.folder = folder
        self.log = folder / "log"
        self.log.touch()
        self.url = broker_url_of(database_url)
        self.environment = {BROKER_VARIABLE: self.url, LOG_VARIABLE: str(self.log)}
        self.app = Celery("sender", broker=self.url, set_as_current=False)
        self.app.conf.task_ignore_result = True

    def send(self, task: str, *arguments: object, **options: Any) -> str:
        return str(self.app.send_task(task, arguments, **options).id)

    def close(self) -> None:
        self.app.pool.force_close_all()
        self.app.close()

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(query).fetchall()

    def ready_messages(self, queue: str = "celery") -> int:
        with self.app.connection_for_read() as connection:
            return int(connection.default_channel.queue_declare(queue, passive=True).message_count)

    def start(self, *arguments: str, name: str = "w1", pool: str = "prefork", concurrency: int = 2) -> Worker:
        return Worker(self, name, [f"--pool={pool}", f"--concurrency={concurrency}", *arguments])


class Worker:
    """A real worker process; killed with its children at the end of the block, if it still runs."""

    def __init__(self, broker: Broker, name: str, arguments: list[str]) -> None:
        self.broker = broker
        self.nodename = f"{name}@test"
        self.output = broker.folder / f"{name}.out"
        command = ["worker", f"--hostname={self.nodename}", "--loglevel=INFO", *arguments]
        self.process = celery_process(broker, command, self.output)
        self.started_at = time.monotonic()

    def ready(self) -> Worker:
        def says_ready() -> bool:
            assert self.process.poll() is None, self.output.read_text()
            return f"{self.nodename} ready." in self.output.read_text()

        wait_until(says_ready, f"{self.nodename} to be ready")
        return self

    def inspect(self, command: str, *arguments: Any, **options: Any) -> Any:
        """This worker's answer to a remote-control command."""
        inspector = self.broker.app.control.inspect([self.nodename], timeout=10)
        answers = getattr(inspector, command)(*arguments, **options)
        assert answers is not None, f"no answer to {command}: {self.output.read_text()}"
        return answers[self.nodename]

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        self.process.send_signal(signal_number)
        return self.wait()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_SECONDS)

    def wait(self) -> int:
        return self.process.wait(DEADLINE_SECONDS)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end_session(self.process)
        if error is not None:
            print(self.output.read_text())


def celery_process(broker: Broker, command: list[str], output: Path) -> subprocess.Popen[bytes]:
    with output.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "celery", "--app=tests.e2e.transport_app", *command],
            env={**os.environ, **broker.environment},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that ``celery_process`` started, with its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(DEADLINE_SECONDS)
