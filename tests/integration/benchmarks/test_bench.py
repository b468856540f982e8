"""The bench from end to end, at sizes that say nothing about speed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import inside, reading
from benchmarks.engines.base import Place
from benchmarks.engines.registry import ENGINES, Entry
from benchmarks.measuring import Measured, measure
from benchmarks.plan import Plan
from benchmarks.program import EngineFailed, Program
from benchmarks.servers import PostgreSQL, Servers
from tasker.database.scratch import ScratchDatabases

TINY = Plan(shapes=("diamond",), rounds=1, seconds=0.05, longest=60, latencies=2)
MISBEHAVING = "tests.integration.benchmarks.misbehaving"


@pytest.fixture
def servers(tasker_server: ScratchDatabases) -> Iterator[Servers]:
    postgresql = PostgreSQL(tasker_server.url)
    yield Servers(postgresql)
    postgresql.close()


@pytest.fixture(autouse=True)
def engines_for_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("liar", "mute"):
        monkeypatch.setitem(ENGINES, name, Entry(MISBEHAVING, [name]))


def as_run(measured: Measured, *engines: str, **more: Any) -> dict[str, Any]:
    return {
        "engines": engines,
        "plan": {"shapes": TINY.shapes},
        "samples": measured.samples,
        "failed": measured.failed,
        "left_out": measured.left_out,
        **more,
    }


def test_tasker_and_the_floor_run_the_same_tasks_and_every_result_is_checked(servers: Servers) -> None:
    measured = measure(["tasker-bare", "floor"], TINY, servers, workers=1)
    assert measured.failed == {}
    run = as_run(measured, "tasker-bare", "floor")
    ratio = reading.ratio(
        reading.throughput(run, "tasker-bare", "diamond"), reading.throughput(run, "floor", "diamond")
    )
    assert ratio is not None
    assert ratio.median > 0
    assert len(reading.latency(run, "tasker-bare", 50)) == 1
    assert reading.latency(run, "floor", 50) == {}
    for engine in ("tasker-bare", "floor"):
        commits = reading.per_step(run, engine, "commits", "diamond")
        assert commits is not None
        assert commits.median > 0
        assert reading.cpu(run, engine, "workers", "diamond") is not None
        memory = reading.memory(run, engine)
        assert memory is not None
        assert memory > 1


def test_an_engine_that_ends_tasks_with_wrong_values_is_reported_as_failed_and_has_no_figures(servers: Servers) -> None:
    measured = measure(["liar"], TINY, servers, workers=1)
    assert "WrongResult: liar, diamond: 5 of 5 tasks ended with a wrong value" in measured.failed["liar"]
    assert measured.samples == []


def test_an_engine_that_does_not_answer_in_time_is_given_up_and_ended(servers: Servers, tmp_path: Path) -> None:
    with Program("mute", Place("", "", "", str(tmp_path / "engine"))) as program:
        program.start()
        process = psutil.Process(program.pid)
        with pytest.raises(EngineFailed, match=r"did not answer within 0\.5 s"):
            program.ask(0.5, do="throughput", shape="linear4", tasks=1)
    assert not process.is_running()


def test_an_engine_that_cannot_be_started_says_why(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "nobody", Entry("benchmarks.engines.nobody"))
    measured = measure(["nobody"], TINY, servers, workers=1)
    assert "No module named benchmarks.engines.nobody" in measured.failed["nobody"]


def test_one_executor_is_measured_by_batch(servers: Servers) -> None:
    one = inside.one_executor(servers.postgresql, 1, 40)
    many = inside.one_executor(servers.postgresql, 50, 400)
    assert 1 <= one["commits"] < 2
    assert many["commits"] < one["commits"]
