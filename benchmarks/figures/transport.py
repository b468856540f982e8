"""Celery's broker on PostgreSQL beside Redis: plain Celery, the same program, one worker of two slots, in turns.

* **start**: from the call of ``apply_async`` until the task is entered, one task at a time, on an idle worker.
* **tasks/s**: tasks that do nothing are sent while nobody reads the queue; then the worker is told to read it. Once
  with task events off, once with them on (what ``-E`` does) and a receiver that reads them all. The rate of sending
  them one by one is told beside it.
* **control**: from the call until the worker's answer is there, reply queue made and deleted included. ``shutdown`` has
  no answer: until the idle worker's process has ended. ``revoke_running``: until the task's process is gone.
* **events**: from the moment that a task event bears until a receiver has it.

Celery is as shipped (prefetch of four messages a slot, gossip, mingle, heartbeats). PostgreSQL is durable: each send is
a commit on disk, and what a commit takes there is told beside it. Redis is taken as it is found, and its persistence
stands with the run.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
from celery import Celery
from kombu import pools

from benchmarks.engines.base import Place
from benchmarks.engines.processes import Workers
from benchmarks.figures.found import Found
from benchmarks.figures.sizes import Sizes
from benchmarks.figures.transport_app import RECORD, make_app
from benchmarks.inside import database
from benchmarks.reading import percentile
from benchmarks.servers import Servers
from benchmarks.shapes import WrongResult
from tasker.messaging.transport.address import broker_url_of

POOLS = ("prefork", "threads")
PGMQ, REDIS = "pgmq", "redis"
SLOTS = 2
PAUSE_SECONDS = 0.02
WARM_TASKS = 20
TRIAL_TASKS = 100
COMMITS = 50
PATIENCE_SECONDS = 120.0
OTHER = "_other"
"""What the name of a second queue ends with."""

ASKED = ("ping", "active", "reserved", "scheduled", "active_queues", "registered", "stats")
COMPARED = ("start_p50_ms", "start_p99_ms", "rate", "rate_events", "sent", "event_p50_ms")
GROWS = frozenset({"prefork"})
"""Pools whose size can be changed, and which can end a task that runs."""


def measure(found: Servers, sizes: Sizes) -> Found:
    """Figures of both brokers on each pool, and the ratios of PGMQ to Redis in each round.

    Raises:
        RuntimeError: there is no Redis.
        WrongResult: a task was run twice, or not at all.
    """
    if not found.redis_url:
        raise RuntimeError(f"no Redis to compare with: {found.missing.get('Redis', 'none was looked for')}")
    figures: dict[str, list[float]] = {}
    with database(found.postgresql) as url:
        brokers = {PGMQ: broker_url_of(url), REDIS: found.redis_url}
        for number in range(sizes.rounds):
            figures.setdefault("transport_commit_ms", []).append(_commit_ms(url))
            for pool in POOLS:
                seen: dict[str, dict[str, float]] = {}
                for broker in sorted(brokers, reverse=bool(number % 2)):
                    with _running(brokers[broker], pool) as side:
                        seen[broker] = _side(side, sizes)
                for broker, values in seen.items():
                    for name, value in values.items():
                        figures.setdefault(f"transport_{pool}_{broker}_{name}", []).append(value)
                for name in COMPARED:
                    ratio = seen[PGMQ][name] / seen[REDIS][name]
                    figures.setdefault(f"transport_{pool}_{name}_ratio", []).append(ratio)
    return Found(figures, size=sizes.calls, details={"redis": dict(found.about.get("Redis", {}))})


def _commit_ms(url: str) -> float:
    """What the disk takes, at least: a small row, inserted and committed; the median."""
    seconds = []
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS public.committed (n integer)")
        for number in range(COMMITS):
            begun = time.perf_counter()
            connection.execute("INSERT INTO public.committed VALUES (%s)", [number])
            seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds) * 1000


class Side:
    """One worker on one broker, and a client of it."""

    def __init__(self, app: Celery, workers: Workers, records: Path, pool: str) -> None:
        self.app = app
        self.queue: str = app.conf.task_default_queue
        self.pool = pool
        self.workers = workers
        self.nodename = f"{pool}@bench"
        self._records = records
        self._number = 0

    def send(self, task: str = "nothing", **options: Any) -> str:
        """Send one task; its id."""
        self._number += 1
        return str(self.app.send_task(task, (self._number,), **options).id)

    def entered(self) -> int:
        """How many tasks have begun."""
        return self._records.stat().st_size // RECORD.size if self._records.exists() else 0

    def wrote(self) -> list[tuple[int, float]]:
        """What the tasks wrote, in the order of their beginning."""
        return list(RECORD.iter_unpack(self._records.read_bytes()))

    def latest(self, tasks: int) -> float:
        """The latest of what so many tasks have written last (two processes write in either order)."""
        return max(value for _, value in self.wrote()[-tasks:])

    def until_entered(self, tasks: int) -> None:
        """Wait until so many have begun."""
        self.workers.until(lambda: self.entered() >= tasks, f"{tasks} tasks to begin", PATIENCE_SECONDS)

    def control(self, command: str, **arguments: Any) -> None:
        """Send a command, and wait for the answer."""
        answers = self.app.control.broadcast(
            command, arguments=arguments, destination=[self.nodename], reply=True, timeout=PATIENCE_SECONDS
        )
        if not answers or "error" in answers[0][self.nodename]:
            raise WrongResult(f"{command} was answered by {answers}")


@contextlib.contextmanager
def _running(broker: str, pool: str) -> Iterator[Side]:
    name = f"bench_{uuid.uuid4().hex[:12]}"
    app = make_app(broker, name)
    with tempfile.TemporaryDirectory(prefix="tasker-bench-") as folder:
        place = Place("", "", "", folder)
        workers = Workers(place)
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.figures.transport_app", "worker"]
        command += ["-P", pool, "-c", str(SLOTS), "-n", f"{pool}@bench"]
        side = Side(app, workers, place.runs, pool)
        try:
            workers.start("worker", command, {"BENCH_BROKER": broker, "BENCH_NAME": name})
            ping = functools.partial(app.control.ping, [side.nodename], timeout=0.5)
            workers.until(lambda: bool(ping()), "the worker to answer", PATIENCE_SECONDS)
            yield side
        finally:
            workers.stop()
            _close(app, name)


def _close(app: Celery, name: str) -> None:
    """Leave nothing on the broker."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        for queue in (name, f"{name}{OTHER}"):
            channel.queue_delete(queue)
        if connection.transport.driver_type == REDIS:
            for key in list(channel.client.scan_iter(f"*{name}*")):
                channel.client.delete(key)
    # kombu keeps one pool for each URL, and hands out a closed one again until it is told to forget all.
    pools.reset()
    app.close()


def _side(side: Side, sizes: Sizes) -> dict[str, float]:
    for _ in range(WARM_TASKS):
        side.send()
    side.until_entered(WARM_TASKS)
    found = _starts(side, sizes.latencies)
    for commands in _commands(side):
        found |= _asked(commands, sizes.calls)
    trial = _rate(side, TRIAL_TASKS)[1]
    tasks = max(TRIAL_TASKS, round(sizes.seconds * trial))
    found["sent"], found["rate"] = _rate(side, tasks)
    with _receiver(side) as events:
        side.control("enable_events")
        _, found["rate_events"] = _rate(side, tasks)
        found |= _events(side, events, sizes.latencies)
    numbers = [number for number, _ in side.wrote()]
    if len(numbers) != len(set(numbers)):
        raise WrongResult(f"{len(numbers) - len(set(numbers))} tasks ran twice")
    if side.pool in GROWS:
        found |= _revoked_while_running(side, sizes.calls)
    found["control_shutdown_p50_ms"] = found["control_shutdown_max_ms"] = _shutdown(side)
    return found


def _starts(side: Side, tasks: int) -> dict[str, float]:
    seconds = []
    for _ in range(tasks):
        before = side.entered()
        begun = time.time()
        side.send()
        side.until_entered(before + 1)
        seconds.append(side.latest(1) - begun)
        time.sleep(PAUSE_SECONDS)
    return {f"start_p{percent}_ms": percentile(seconds, percent) * 1000 for percent in (50, 99)}


def _rate(side: Side, tasks: int) -> tuple[float, float]:
    """Tasks sent, and tasks begun, per second."""
    side.control("cancel_consumer", queue=side.queue)
    before = side.entered()
    begun = time.monotonic()
    for _ in range(tasks):
        side.send()
    sent = tasks / (time.monotonic() - begun)
    at = time.time()
    side.control("add_consumer", queue=side.queue)
    side.until_entered(before + tasks)
    return sent, tasks / (side.latest(tasks) - at)


def _commands(side: Side) -> Iterator[list[tuple[str, Callable[[], object]]]]:
    """What is asked, each with what takes it back."""
    for name in ASKED:
        yield [(name, functools.partial(side.control, name))]
    later = side.send(countdown=3600)
    yield [("revoke_eta", lambda: side.control("revoke", task_id=later))]
    if side.pool in GROWS:
        yield [(name, functools.partial(side.control, name, n=1)) for name in ("pool_grow", "pool_shrink")]
    names = ("add_consumer", "cancel_consumer")
    yield [(name, functools.partial(side.control, name, queue=f"{side.queue}{OTHER}")) for name in names]


def _asked(commands: list[tuple[str, Callable[[], object]]], calls: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name, _ in commands}
    for _ in range(calls):
        for name, ask in commands:
            begun = time.perf_counter()
            ask()
            seconds[name].append(time.perf_counter() - begun)
    return {figure: value for name in seconds for figure, value in _told(name, seconds[name]).items()}


def _told(name: str, seconds: list[float]) -> dict[str, float]:
    return {
        f"control_{name}_p50_ms": statistics.median(seconds) * 1000,
        f"control_{name}_max_ms": max(seconds) * 1000,
    }


def _revoked_while_running(side: Side, calls: int) -> dict[str, float]:
    seconds = []
    for _ in range(min(calls, 10)):
        before = side.entered()
        task = side.send("hang")
        side.until_entered(before + 1)
        process = psutil.Process(int(side.latest(1)))
        begun = time.perf_counter()
        side.control("revoke", task_id=task, terminate=True, signal="KILL")
        _gone(process)
        seconds.append(time.perf_counter() - begun)
    return _told("revoke_running", seconds)


def _gone(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.001)


def _shutdown(side: Side) -> float:
    (pid,) = side.workers.pids
    process = psutil.Process(pid)
    begun = time.perf_counter()
    side.app.control.shutdown([side.nodename])
    _gone(process)
    return (time.perf_counter() - begun) * 1000


@contextlib.contextmanager
def _receiver(side: Side) -> Iterator[list[tuple[float, str]]]:
    """Reads all events meanwhile; the delay in seconds and the kind of each task event."""
    seen: list[tuple[float, str]] = []
    listening, stop = threading.Event(), threading.Event()

    def keep(event: dict[str, Any]) -> None:
        if event["type"].startswith("task-"):
            seen.append((time.time() - event["timestamp"], event["type"]))

    def listen() -> None:
        with side.app.connection_for_read() as connection:
            receiver = side.app.events.Receiver(connection, handlers={"*": keep})
            with receiver.consumer_context(wakeup=False) as (receiving, _, _):
                listening.set()
                while not stop.is_set():
                    with contextlib.suppress(TimeoutError):
                        receiving.drain_events(timeout=0.2)

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        if not listening.wait(PATIENCE_SECONDS):
            raise WrongResult("the receiver of events does not come up")
        yield seen
    finally:
        stop.set()
        thread.join()


def _events(side: Side, seen: list[tuple[float, str]], tasks: int) -> dict[str, float]:
    """Delays of the events of tasks that come one at a time."""
    delays: list[float] = []
    for _ in range(tasks):
        succeeded = sum(kind == "task-succeeded" for _, kind in seen)
        before = len(seen)
        side.send()
        side.workers.until(
            lambda succeeded=succeeded: sum(kind == "task-succeeded" for _, kind in seen) > succeeded,
            "a task's events",
            PATIENCE_SECONDS,
        )
        delays += [delay for delay, _ in seen[before:]]
        time.sleep(PAUSE_SECONDS)
    return {"event_p50_ms": statistics.median(delays) * 1000, "event_max_ms": max(delays) * 1000}
