"""The embedded server while everything that can be killed is killed at random: nothing committed is ever lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.embedded_support import (
    all_gone,
    command_of,
    execute,
    guardians,
    postmaster,
    processes_of,
    server_folder,
    start,
)
from tests.waiting import wait_until

# Writes rows, notes each that the server acknowledged, and revives the server when it is gone.
_WRITER = """
import os, sys, time
from pathlib import Path
import psycopg
from tasker.database.embedded import EmbeddedServer

server = EmbeddedServer.start(Path(sys.argv[1]), settings={"fsync": "off"})
connection, number, end = None, 0, time.monotonic() + float(sys.argv[3])
with open(sys.argv[2], "a", buffering=1) as acknowledged:
    while time.monotonic() < end:
        try:
            connection = connection or psycopg.connect(server.url, autocommit=True)
            key, number = f"{os.getpid()}-{number}", number + 1
            connection.execute("INSERT INTO kept VALUES (%s)", (key,))
            acknowledged.write(f"{key}\\n")
        except psycopg.OperationalError:
            if connection is not None:
                connection.close()
            connection = None
            server.ensure_running()
        time.sleep(0.005)
if connection is not None:
    connection.close()
server.release()
"""


class Storm:
    """Writers that come, end and are killed; and a server, of which any process is."""

    def __init__(self, folder: Path, notes: Path, randomly: random.Random) -> None:
        self.folder = folder
        self.notes = notes
        self.randomly = randomly
        self.writers: list[subprocess.Popen[bytes]] = []

    def blow(self) -> None:
        for writer in [writer for writer in self.writers if writer.poll() is not None]:
            assert writer.returncode in {0, -signal.SIGKILL}
            self.writers.remove(writer)
        while len(self.writers) < self.randomly.choice([0, 2, 4]):
            seconds = str(self.randomly.uniform(0.3, 3))
            command = [sys.executable, "-c", _WRITER, str(self.folder), str(self.notes), seconds]
            self.writers.append(subprocess.Popen(command))
        self.randomly.choices(
            [self.kill_a_writer, self.kill_all_writers, self.kill_the_postmaster, self.kill_any, self.kill_all, list],
            [25, 4, 10, 5, 4, 50],
        )[0]()
        assert len([pid for pid in processes_of(self.folder) if "-D" in command_of(pid)]) <= 1

    def kill_a_writer(self) -> None:
        if self.writers:
            self.randomly.choice(self.writers).kill()

    def kill_all_writers(self) -> None:
        for writer in self.writers:
            writer.kill()

    def kill_the_postmaster(self) -> None:
        self._kill([postmaster(self.folder)])

    def kill_any(self) -> None:
        self._kill(self.randomly.sample(processes_of(self.folder), 1) if processes_of(self.folder) else [])

    def kill_all(self) -> None:
        self._kill([*processes_of(self.folder), *guardians(self.folder)])

    def end(self) -> None:
        for writer in self.writers:
            assert writer.wait(30) in {0, -signal.SIGKILL}

    @staticmethod
    def _kill(pids: list[int | None]) -> None:
        for pid in pids:
            if pid is not None:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


@pytest.mark.parametrize("seconds", [5, pytest.param(120, marks=[pytest.mark.long, pytest.mark.timeout(300)])])
def test_nothing_committed_is_lost_and_no_two_servers_run_whoever_is_killed(tmp_path: Path, seconds: int) -> None:
    notes = tmp_path / "acknowledged"
    notes.touch()
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    with server_folder() as folder:
        with start(folder) as server:
            execute(server.url, "CREATE TABLE kept (key text)")
        storm = Storm(folder, notes, random.Random(seed))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            storm.blow()
            time.sleep(storm.randomly.uniform(0, 0.2))
        storm.end()
        with start(folder) as server:
            kept = execute(server.url, "SELECT coalesce(array_agg(key), '{}') FROM kept")
        assert isinstance(kept, list)
        assert set(notes.read_text().split()) <= set(kept)
        assert len(kept) == len(set(kept))
        wait_until(lambda: all_gone(folder) and not processes_of(folder), "all processes to end")
