"""Does the Celery transport leak? Counts what there is, works it hard, does the housekeeping, and counts again.

    python -m tests.e2e.transport_leaks --calls 10000 --restarts 1000

A worker answers the calls: from one client that keeps its connection, from clients with a connection each, to nobody
(the reply queue is made in vain), and from clients that are killed while they wait. Readers come and go: each takes a
message and is then closed, or killed with kill -9 before or after acknowledging it; among them real workers. Afterwards
everything must be as before: rows, tables, queues, mailboxes, bindings, sessions, locks, file descriptors; and every
message was acknowledged by one reader, or is there still.

The time that a mailbox of the dead is kept is not waited for: its rows are made older.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from kombu import Connection, Consumer, Exchange, Message, Producer, Queue

from tasker.database.migrations import migrate
from tasker.messaging.transport.registration import register
from tests.e2e.transport_support import Broker, Worker
from tests.embedded_support import server_folder, start
from tests.forking import in_child
from tests.waiting import wait_until

register()

ROOT = Path(__file__).parents[2]
ASKED = ("ping", "active", "reserved", "active_queues", "stats", "scheduled")
JOBS = Queue("jobs", Exchange("jobs"), routing_key="jobs")
"""As Celery declares a queue that it knows by its name alone."""

SLICE = 50
"""Every so many restarts one is a real worker's; every so many calls each of the rarer ways to ask is tried."""

COUNTED = {
    "tables": "pg_class WHERE relkind IN ('r', 'p') AND relnamespace::regnamespace::text IN ('pgmq', 'tasker')",
    "sequences": "pg_class WHERE relkind = 'S' AND relnamespace::regnamespace::text IN ('pgmq', 'tasker')",
    "queues of PGMQ": "pgmq.meta",
    "task queues": "tasker.celery_queues",
    "mailboxes": "tasker.celery_mailboxes",
    "mail": "tasker.celery_mail",
    "bindings": "tasker.celery_bindings",
    "readers": "tasker.celery_consumers",
    "messages": "pgmq.q_celery_jobs",
    "sessions": "pg_stat_activity WHERE application_name = 'tasker-broker' AND datname = current_database()",
    "locks": "pg_locks WHERE locktype = 'advisory' AND classid = 1413567307"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
}


@dataclass(frozen=True)
class Report:
    """What was counted before and after, and what it took."""

    before: dict[str, int]
    after: dict[str, int]
    calls: int
    restarts: int
    seconds: float
    megabytes: tuple[float, float]
    """Of the worker that answered, before and after."""

    @property
    def leaks(self) -> dict[str, tuple[int, int]]:
        """What is not as it was."""
        return {name: (was, self.after[name]) for name, was in self.before.items() if self.after[name] != was}

    def text(self) -> str:
        """As a table."""
        lines = [f"{'':24}{'before':>10}{'after':>10}"]
        lines += [f"{name:24}{was:>10}{self.after[name]:>10}" for name, was in self.before.items()]
        lines.append(f"{'memory of worker, MB':24}{self.megabytes[0]:>10.1f}{self.megabytes[1]:>10.1f}")
        lines.append(f"{self.calls} calls, {self.restarts} restarts in {self.seconds:.0f} s")
        return "\n".join(lines)


class Counter:
    """Counts what there is in the database and in two processes."""

    def __init__(self, broker: Broker, worker: Worker) -> None:
        self._broker = broker
        self._processes = {"files of worker": psutil.Process(worker.process.pid), "files of client": psutil.Process()}

    def count(self) -> dict[str, int]:
        counts = {name: int(self._broker.rows(f"SELECT count(*) FROM {what}")[0][0]) for name, what in COUNTED.items()}
        return counts | {name: process.num_fds() for name, process in self._processes.items()}

    def megabytes(self) -> float:
        return float(self._processes["files of worker"].memory_info().rss) / 2**20

    def clean_up(self) -> None:
        """What readers do by themselves after some time."""
        with psycopg.connect(self._broker.database_url, autocommit=True) as connection:
            connection.execute("UPDATE tasker.celery_mailboxes SET seen_at = seen_at - interval '1 day'")
            connection.execute("SELECT tasker.celery_tend()")


def look(broker: Broker, calls: int, restarts: int) -> Report:
    """Work the transport hard, and count.

    Args:
        broker: an empty database.
        calls: remote-control calls.
        restarts: readers and workers that come and go.
    """
    began = time.monotonic()
    with broker.start("--queues=elsewhere", name="steady", pool="threads").ready() as steady:
        counter = Counter(broker, steady)
        with Connection(broker.url) as connection:
            JOBS(connection.default_channel).declare()
        _ask(broker, steady, len(ASKED))  # what is made once is no leak
        counter.clean_up()
        before, megabytes = counter.count(), counter.megabytes()
        _restart(broker, restarts)
        _ask(broker, steady, calls)
        counter.clean_up()
        after = before
        with suppress(AssertionError):
            wait_until(lambda: counter.count() == before, "everything to be as before", 15)
        after = counter.count()
        return Report(
            before, after, calls, restarts, time.monotonic() - began, megabytes=(megabytes, counter.megabytes())
        )


# -- calls ----------------------------------------------------------------------------------------------------------


def _ask(broker: Broker, worker: Worker, calls: int) -> None:
    control = broker.app.control
    rarer = {
        1: lambda: control.inspect(["nobody@test"], timeout=0.01).ping(),
        2: lambda: _ask_over_a_connection_of_its_own(broker, worker),
        3: lambda: _die_while_asking(broker, worker),
    }
    for number in range(calls):
        other = rarer.get(number % SLICE)
        if other is not None:
            other()
        else:
            worker.inspect(ASKED[number % len(ASKED)])


def _ask_over_a_connection_of_its_own(broker: Broker, worker: Worker) -> None:
    with Connection(broker.url) as connection:
        inspector = broker.app.control.inspect([worker.nodename], timeout=30, connection=connection)
        assert inspector.ping()


def _die_while_asking(broker: Broker, worker: Worker) -> None:
    """A client whose reply queue is there, and who does not come for the answer."""

    def ask() -> None:
        with Connection(broker.url) as connection:
            mailbox = broker.app.control.mailbox
            channel = connection.default_channel
            queue = mailbox.get_reply_queue()(channel)
            queue.name = f"{os.getpid()}.{queue.name}"
            queue.declare()
            mailbox._broadcast("ping", {}, destination=[worker.nodename], reply=False, channel=channel)
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(ask) == -signal.SIGKILL


# -- readers that come and go ---------------------------------------------------------------------------------------


def _restart(broker: Broker, restarts: int) -> None:
    """So many readers come and go, every `SLICE`th a real worker."""
    workers = max(1, restarts // SLICE)
    for number in range(workers):
        broker.send("note", f"worker {number}", queue="jobs")
        with broker.start("--queues=jobs", name=f"passing{number}", pool="solo", concurrency=1) as worker:
            wait_until(lambda line=f"worker {number}": line in broker.lines(), "a passing worker's task")
            wait_until(lambda: broker.rows("SELECT * FROM pgmq.q_celery_jobs") == [], "its acknowledgement")
            if number % 2:
                worker.kill()
            else:
                assert worker.stop() == 0
    readers = restarts - workers
    # From a process of its own, which has nothing open when it forks.
    command = [sys.executable, "-m", "tests.e2e.transport_leaks", "--readers", str(readers), "--broker-url", broker.url]
    acknowledged = broker.folder / "acknowledged"
    done = subprocess.run([*command, "--log", str(acknowledged)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    settled = [int(line) for line in acknowledged.read_text().split()] if acknowledged.exists() else []
    # Each message was acknowledged by one reader, or is there still.
    assert sorted(settled + _drain(broker, readers - len(settled))) == [*range(readers)]


def _read_in_children(url: str, readers: int, log: Path) -> None:
    """Readers as children of this process: a third is closed, a third killed, a third killed after acknowledging."""
    letters = Exchange("letters", "fanout")
    with Connection(url) as sender:
        for number in range(readers):
            Producer(sender.default_channel).publish(number, exchange="", routing_key="jobs", serializer="json")
    for number in range(readers):
        child = os.fork()
        if child == 0:
            _read_and_leave(url, letters, number % 3, log)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != (0 if number % 3 == 0 else -signal.SIGKILL):
            raise RuntimeError(f"reader {number} ended with {status}")


def _read_and_leave(url: str, letters: Exchange, way: int, log: Path) -> None:  # pragma: no cover - in children
    """Take a message, and be closed (0), be killed (1), or be killed after acknowledging (2)."""
    with suppress(BaseException):
        connection = Connection(url)
        got: list[Message] = []
        mailbox = Queue(f"letters.{os.getpid()}", letters, auto_delete=True)
        consumer = Consumer(connection.channel(), [JOBS, mailbox], on_message=got.append, prefetch_count=1)
        consumer.consume()
        while not got:
            connection.drain_events(timeout=60)
        if way != 1:
            got[0].ack()
            with log.open("a") as lines:
                lines.write(f"{got[0].payload}\n")
        if way == 0:
            connection.close()
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)


def _drain(broker: Broker, count: int) -> list[int]:
    """Take what killed readers had not acknowledged."""
    left: list[int] = []

    def take(message: Message) -> None:
        left.append(message.payload)
        message.ack()

    with Connection(broker.url, transport_options={"housekeeping_interval": 0.2}) as connection:
        with Consumer(connection.channel(), [JOBS], on_message=take):
            deadline = time.monotonic() + 60
            while len(left) < count:
                assert time.monotonic() < deadline, f"{count - len(left)} messages are lost"
                with suppress(TimeoutError):
                    connection.drain_events(timeout=0.2)
    return left


# -- by hand --------------------------------------------------------------------------------------------------------


@contextmanager
def _place() -> Iterator[Broker]:
    with (
        tempfile.TemporaryDirectory(prefix="tasker-leaks-") as folder,
        server_folder() as place,
        start(place) as server,
    ):
        url = server.database_url("postgres")
        migrate(url)
        broker = Broker(url, Path(folder))
        try:
            yield broker
        finally:
            broker.close()


def main(words: Sequence[str] | None = None) -> int:
    """Ends with 1 if something leaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--restarts", type=int, default=1_000)
    parser.add_argument("--readers", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--broker-url", help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.readers is not None:
        _read_in_children(given.broker_url, given.readers, given.log)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the workers and the server, too
    with _place() as broker:
        report = look(broker, given.calls, given.restarts)
    print(report.text())
    for name, (was, now) in report.leaks.items():
        print(f"LEAK: {name}: {was} before, {now} after", file=sys.stderr)
    return 1 if report.leaks else 0


if __name__ == "__main__":
    sys.exit(main())
