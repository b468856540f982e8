"""Tasker's peers in the bench, each through its own program and environment, at sizes that say nothing about speed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from benchmarks import servers as bench_servers
from benchmarks.engines import environments
from benchmarks.engines.base import Place
from benchmarks.engines.environments import EnvironmentFailed, python_for
from benchmarks.engines.registry import ENGINES
from benchmarks.program import EngineFailed, Program
from benchmarks.servers import Servers
from tasker.database.scratch import ScratchDatabases

PEERS = [name for name, entry in ENGINES.items() if entry.group is not None]
NOBODY = "postgresql://postgres@127.0.0.1:9/nobody"

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def servers(tasker_server: ScratchDatabases) -> Iterator[Servers]:
    with bench_servers.servers(
        database_url=tasker_server.url,
        redis_url=os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/0"),
        amqp_url=os.environ.get("BENCH_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672//"),
    ) as found:
        yield found


def everything_below(program: Program) -> list[psutil.Process]:
    return [process for pid in program.workers for process in [psutil.Process(pid), *below(pid)]]


def below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_runs_every_shape_of_its_own_rightly_and_leaves_no_process_behind(
    peer: str, servers: Servers, tmp_path: Path
) -> None:
    url = servers.postgresql.create()
    with Program(peer, Place(url, servers.redis_url, servers.amqp_url, str(tmp_path / "engine"))) as program:
        program.start()
        assert program.workers
        for shape in program.shapes:
            assert program.ask(300, do="throughput", shape=shape, tasks=1 if shape == "wide2000" else 3)["seconds"] > 0
        assert len(program.ask(120, do="latency", shape=program.shapes[0], tasks=2)["seconds"]) == 2
        started = everything_below(program)
        program.stop()
        assert [process for process in started if process.is_running()] == []
    servers.postgresql.drop(url)


@pytest.mark.parametrize("peer", [name for name in PEERS if ENGINES[name].postgresql])
def test_a_peer_that_cannot_start_says_so_and_leaves_no_process_behind(peer: str, tmp_path: Path) -> None:
    with Program(peer, Place(NOBODY, "", "", str(tmp_path / "engine"))) as program:
        with pytest.raises(EngineFailed):
            program.start()
        left = below(program.pid)
        program.stop()
        assert [process for process in left if process.is_running()] == []


def test_a_peer_whose_client_is_told_to_end_ends_its_workers(servers: Servers, tmp_path: Path) -> None:
    url = servers.postgresql.create()
    with Program("absurd", Place(url, "", "", str(tmp_path / "engine"))) as program:
        program.start()
        started = everything_below(program)
        client = psutil.Process(program.pid)
        client.terminate()
        psutil.wait_procs([client, *started], timeout=30)
        assert [process for process in started if process.is_running()] == []
    servers.postgresql.drop(url)


def test_an_environment_asked_for_twice_at_once_is_made_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "environments")
    with ThreadPoolExecutor() as threads:
        first, second = threads.map(python_for, ["absurd", "absurd"])
    assert first == second
    assert first.exists()
    assert capfd.readouterr().err.count("Making") == 1


def test_an_environment_that_cannot_be_made_says_what_failed_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "environments")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(EnvironmentFailed, match="needs the package registry that pip is set up for; leave absurd out"):
        python_for("absurd")
