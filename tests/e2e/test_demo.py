"""``tasker demo`` as people run it: its output, its exit code, what it leaves, and what it survives."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from order_fulfillment import shop
from order_fulfillment.progress import read_progress
from tasker.database.side_database import SideDatabase
from tests.embedded_support import all_gone, guardians, kill_postmaster, url_of
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(240)


class Demo:
    """One ``tasker demo`` that runs."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        self.mark = uuid.uuid4().hex
        ours = ("TASKER", "DATABASE_URL", "CELERY", "PG")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.lines: list[str] = []
        self.errors = (folder / "errors.txt").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from tasker.cli import main; main()", "demo", *arguments],
            cwd=folder,
            env={**inherited, **variables, "DEMO_MARK": self.mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append(line.rstrip("\n"))

    def wait_for_line(self, pattern: str) -> str:
        def found() -> str | None:
            assert self.process.poll() is None or self._reader.is_alive() or self.matching(pattern), self.story()
            return self.matching(pattern)

        return wait_until(found, pattern, timeout_seconds=180)

    def matching(self, pattern: str) -> str | None:
        return next((line for line in list(self.lines) if re.search(pattern, line)), None)

    def end(self) -> int:
        code = self.process.wait(180)
        self._reader.join()
        self.errors.close()
        return code

    def story(self) -> str:
        return "\n".join([*self.lines, Path(self.errors.name).read_text()])

    def program(self, name: str) -> psutil.Process | None:
        """The Celery worker of that name, once it has children or threads at work."""
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):
                if f"{name}@%h" in child.cmdline():
                    return child
        return None

    def left(self) -> list[str]:
        """Processes of this demo that still run, itself included."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("DEMO_MARK") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
        return found

    def clean_up(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end()
        wait_until(lambda: not self.left(), "the demo's processes have ended with it")


StartDemo = Callable[..., Demo]


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[StartDemo]:
    started: list[Demo] = []

    def start(*arguments: str, **variables: str) -> Demo:
        started.append(Demo(tmp_path, *arguments, **variables))
        return started[-1]

    yield start
    for demo in started:
        demo.clean_up()


def assert_nothing_is_left(demo: Demo, url: str) -> None:
    assert demo.left() == []
    with psycopg.connect(url) as connection:
        name = SideDatabase(url, "demo").name
        assert connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchall() == []


def checks_in(lines: Sequence[str]) -> dict[str, str]:
    """What the printed table of checks says of each."""
    begin = next(number for number, line in enumerate(lines) if re.fullmatch(r" +check +seen", line))
    rows = [re.split(r" {2,}", line) for line in lines[begin + 1 : lines.index("", begin)]]
    return {name: verdict for verdict, name, _ in rows}


def test_a_demo_answers_what_an_owner_would_ask_and_leaves_nothing(
    start_demo: StartDemo, tasker_database_url: str
) -> None:
    demo = start_demo("--orders", "40", "--no-flower", "-c", "1", DATABASE_URL=tasker_database_url)
    assert demo.end() == 0, demo.story()
    assert set(checks_in(demo.lines).values()) == {"ok"}
    assert len(checks_in(demo.lines)) >= 12
    assert demo.matching(r"^40 orders sent, \d+ of them twice")
    assert demo.matching(r"40 of 40 orders, [1-9]\d\d steps, \d+ steps/s")
    assert demo.matching(r"^fulfilled +3\d$")
    assert demo.matching(r"^refused: card_declined +\d$")
    assert demo.matching(r"^steps +3\d\d in [\d.]+ s: \d+ steps/s$")
    assert demo.matching(r"^outages +\d+ attempts failed; [1-9]\d* steps done by a later one$")
    assert demo.matching(r"tasker demo --keep")
    assert_nothing_is_left(demo, tasker_database_url)


@pytest.mark.long
def test_a_check_that_fails_is_told_by_the_exit_code_and_leaves_the_database(
    start_demo: StartDemo, tasker_database_url: str
) -> None:
    side = SideDatabase(tasker_database_url, "demo")
    demo = start_demo("--orders", "10", "--no-flower", "-c", "1", "--json", DATABASE_URL=tasker_database_url)
    try:
        wait_until(lambda: _steal_from_the_stock(side.url), "the shop is set up")
        assert demo.end() == 1
        assert demo.lines, demo.story()
        report: dict[str, Any] = json.loads("\n".join(demo.lines))
        wrong = [check["name"] for check in report["checks"] if not check["ok"]]
        assert (wrong, report["right"]) == (["stock adds up, product by product"], False)
        assert (report["orders"], report["fulfilled"] + sum(report["refused"].values())) == (10, 10)
        with psycopg.connect(side.url) as connection:
            assert connection.execute("SELECT count(*) FROM shop.orders").fetchone() == (10,)
    finally:
        side.drop()


def _steal_from_the_stock(url: str) -> bool:
    try:
        with psycopg.connect(url) as connection:
            stolen = connection.execute("UPDATE shop.stock SET quantity = quantity - 1 WHERE sku = 'MUG-OAK-000'")
            return stolen.rowcount == 1
    except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
        return False


@pytest.mark.long
def test_a_demo_that_was_killed_leaves_no_process_and_does_not_stand_in_the_way_of_the_next(
    start_demo: StartDemo, tasker_database_url: str, tmp_path: Path
) -> None:
    arguments = ("--orders", "1000", "--no-flower", "-c", "1")
    # What is killed cannot remove its temporary folder; here pytest does.
    first = start_demo(*arguments, DATABASE_URL=tasker_database_url, TMPDIR=str(tmp_path))
    first.wait_for_line("orders sent")
    first.process.kill()
    wait_until(lambda: not first.left(), "the processes of a killed demo have ended")

    second = start_demo(*arguments, DATABASE_URL=tasker_database_url)
    second.wait_for_line("orders sent")
    second.process.send_signal(signal.SIGTERM)
    assert second.end() == 1
    assert second.lines[-1] == "Stopped before all orders had ended."
    assert_nothing_is_left(second, tasker_database_url)


def test_a_demo_that_is_kept_runs_with_flower_until_ctrl_c(start_demo: StartDemo, tasker_database_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        demo = start_demo("--orders", "5", "-c", "1", "--keep", "--flower-port", port, DATABASE_URL=tasker_database_url)
        demo.wait_for_line("Ctrl-C stops everything")
    address = re.search(r"http://127\.0\.0\.1:(\d+)", demo.wait_for_line("^Flower: http"))
    assert address is not None
    assert address[1] != port, "somebody else listens there"
    assert wait_until(lambda: _answers(address[0]), "Flower answers")
    exported = re.search(r"DATABASE_URL='(.*)'", demo.wait_for_line("export DATABASE_URL"))
    assert exported is not None
    with psycopg.connect(exported[1]) as connection:
        assert connection.execute("SELECT count(*) FROM shop.orders").fetchone() == (5,)

    demo.process.send_signal(signal.SIGINT)
    assert demo.end() == 0, demo.story()
    assert_nothing_is_left(demo, tasker_database_url)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
def data_home() -> Iterator[Path]:
    """A user's data directory, for an embedded server of its own; root's server, another user's, must reach it."""
    folder = Path(tempfile.mkdtemp(prefix="tasker-demo-test-", dir="/tmp"))
    folder.chmod(0o711)
    yield folder
    wait_until(lambda: all_gone(server_of(folder)) and not guardians(server_of(folder)), "the server has stopped")
    shutil.rmtree(folder)


def server_of(data_home: Path) -> Path:
    return data_home / "tasker" / "postgres-18"


def test_kill_9_of_an_executor_a_worker_and_the_embedded_server_changes_nothing_of_the_end(
    start_demo: StartDemo, data_home: Path
) -> None:
    demo = start_demo("--orders", "200", "--no-flower", "-c", "2", XDG_DATA_HOME=str(data_home))
    demo.wait_for_line("orders sent")
    url = SideDatabase(url_of(server_of(data_home)), "demo").url

    wait_until(lambda: steps_ended(url) >= 200, "a part of the steps has ended", timeout_seconds=120)
    worker = demo.program("steps")
    assert worker is not None
    executors_of(worker)[0].kill()

    wait_until(lambda: steps_ended(url) >= 500, "a further part has ended", timeout_seconds=120)
    worker.kill()
    wait_until(lambda: demo.program("steps") not in (None, worker), "the worker is started again")

    wait_until(lambda: steps_ended(url) >= 800, "a further part has ended", timeout_seconds=120)
    kill_postmaster(server_of(data_home))

    wait_until(lambda: steps_ended(url) >= 1100, "a further part has ended", timeout_seconds=120)
    orchestration = demo.program("orchestration")
    assert orchestration is not None
    orchestration.kill()
    assert not demo.matching("200 of 200 orders"), "all had ended before the last kill"

    assert demo.end() == 0, demo.story()
    assert set(checks_in(demo.lines).values()) == {"ok"}
    assert demo.matching("^steps was killed by SIGKILL; it is started again")
    assert demo.matching(r"^dead executors +[1-9]\d* steps taken back")
    wait_until(lambda: not demo.left(), "all processes have ended")


def steps_ended(url: str) -> int:
    try:
        with contextlib.closing(shop.connect(url)) as connection:
            return read_progress(connection).steps_ended
    except psycopg.OperationalError:
        return 0


def executors_of(worker: psutil.Process) -> list[psutil.Process]:
    """Processes of the worker's pool, the busiest first."""
    return sorted(worker.children(), key=lambda child: -child.cpu_times().user)
