"""The programs of single figures, at sizes that say nothing about speed: what they lay down is legal, and they end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from redis import Redis

from benchmarks import inside
from benchmarks import servers as bench_servers
from benchmarks.figures import (
    dependencies,
    growth,
    handoff,
    history,
    large_task,
    memory,
    other_languages,
    pairs,
    payloads,
    transport,
)
from benchmarks.figures.found import Found
from benchmarks.figures.pairs import LARGE, SMALL, measure_pair
from benchmarks.figures.programs import PROGRAMS, SETTINGS, measure_into
from benchmarks.figures.sizes import SMALL as SMALL_SIZES
from benchmarks.figures.sizes import Sizes
from benchmarks.figures.snapshot import held
from benchmarks.servers import PostgreSQL, Servers
from tasker import Tasker
from tasker.database.scratch import ScratchDatabases
from tasker.database.verification import verify
from tests.e2e.foreign.redis_server import REDIS_URL, close_leftovers, redis_or_skip
from tests.waiting import wait_until

TINY = replace(
    SMALL_SIZES,
    rounds=1,
    seconds=0.05,
    latencies=2,
    handoffs=2,
    completions=4,
    messages=40,
    steps_of_one=60,
    payload_bytes=4000,
    memory_steps=800,
    calls=2,
)


@pytest.fixture
def servers(tasker_server: ScratchDatabases) -> Iterator[Servers]:
    postgresql = PostgreSQL(tasker_server.url)
    yield Servers(postgresql)
    postgresql.close()


@pytest.fixture
def url(servers: Servers) -> Iterator[str]:
    with inside.database(servers.postgresql) as found:
        yield found


def one(url: str, query: str) -> Any:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_a_multiplied_history_breaks_no_rule_and_is_read_like_any_other(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "ORIGINALS", 40)
    monkeypatch.setattr(history, "COPIES_IN_ONE_TRANSACTION", 2)
    history.finished_tasks(url, inside.CHAIN, 150)
    report = verify(url)
    assert (report.findings, report.unchecked) == ((), {})
    assert one(url, "SELECT count(*) FROM tasker.tasks WHERE state = 'complete'") == 160
    assert one(url, "SELECT count(DISTINCT step_uuid) FROM tasker.workflow_steps") == 640
    with Tasker(url) as client:
        copied, *_ = client.list(states=["complete"], limit=160).tasks[::-1]
        assert set(client.results(copied.task_uuid)) == set(inside.CHAIN.parents)


@pytest.mark.parametrize(
    ("condition", "what", "expected"),
    [
        ("waiting", "SELECT count(*) FROM tasker.tasks WHERE scheduled AND state = 'pending'", 30),
        ("unserved", "SELECT count(*) FROM pgmq.q_elsewhere_queue", 30),
        ("timers", "SELECT count(*) FROM tasker.step_timers WHERE due_at > now() + interval '19 days'", 30),
        ("templates", "SELECT count(*) FROM tasker.named_tasks", 31),
    ],
)
def test_what_is_large_was_laid_down_by_the_rules_and_none_of_it_is_work_for_the_executor(
    url: str, condition: str, what: str, expected: int
) -> None:
    with growth.CONDITIONS[condition](30, url):
        assert one(url, what) == expected
        with inside.executor_here(url, 50) as loop:
            assert sum(loop.run_until_idle(30).taken.values()) == 0
    report = verify(url)
    assert (report.findings, report.unchecked) == ((), {})


@pytest.mark.long
def test_both_databases_of_a_pair_are_measured_in_each_round_and_looked_into_afterwards(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "LEARNED_SECONDS", 0)
    monkeypatch.setattr(pairs, "WARM_TASKS", 10)

    @contextlib.contextmanager
    def waiting_and_held(url: str) -> Iterator[None]:
        with growth.waiting(20, url), held(url):
            yield

    pair = measure_pair(servers, waiting_and_held, rounds=2, seconds=0.05, latencies=2)
    assert [(sample["side"], sample["round"]) for sample in pair.samples] == [
        (SMALL, 0),
        (LARGE, 0),
        (LARGE, 1),
        (SMALL, 1),
    ]
    figures = growth.figures_of("waiting", pair)
    for name in ("growth_waiting", "growth_waiting_p50"):
        assert len(figures[name]) == 2
        assert min(figures[name]) > 0
    watched = pair.watched[LARGE]
    assert watched["functions"]["claim_steps"] > 0
    assert watched["tables"]["workflow_steps"]["rows"] > 1
    assert min(figures["growth_waiting_tick_large"]) > 0


def test_dead_rows_stay_as_long_as_a_snapshot_is_held(url: str) -> None:
    def pages(statement: str) -> int:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement.encode())
            connection.execute("VACUUM tasker.dead_letters")
        return int(one(url, "SELECT pg_relation_size('tasker.dead_letters')"))

    letter = "INSERT INTO tasker.dead_letters (kind, reason, snapshot) VALUES ('message', 'not understood', '{}')"
    assert pages(letter) > 0
    with held(url):
        assert pages("DELETE FROM tasker.dead_letters") > 0
    # The server ends the session that held it a moment after its client did.
    wait_until(lambda: pages("SELECT") == 0, "the dead rows to be removed")


@pytest.mark.long
def test_handoffs_are_timed_to_the_same_executor_and_to_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handoff, "LEARNED_SECONDS", 0)
    with bench_servers.servers(database_url=None, redis=False, rabbitmq=False, settings=SETTINGS) as own:
        figures = handoff.measure(own, TINY).figures
    for kind in ("same", "other"):
        (committed,), (whole,) = figures[f"handoff_{kind}_ms"], figures[f"handoff_{kind}_whole_ms"]
        assert 0 < committed < whole


def test_the_ruler_of_dependencies_agrees_with_the_counters(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependencies, "STEPS", (10,))
    monkeypatch.setattr(dependencies, "WAYS", {"alone": 1, "batch": 2})
    figures = dependencies.measure(servers, TINY).figures
    assert figures["dependencies_ratio"] == figures["dependencies_ratio_batch_10"]
    for name in ("counters", "completion", "ruler"):
        assert min(figures[f"dependencies_{name}_alone_10"]) > 0


@pytest.mark.long
def test_results_of_other_languages_are_all_recorded(servers: Servers) -> None:
    figures = other_languages.measure(servers, TINY).figures
    assert min(figures["other_languages_per_second"] + figures["other_languages_end_to_end"]) > 0


@pytest.mark.long
def test_a_large_task_is_run_beside_as_many_steps_of_small_ones(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_task, "WARM_TASKS", {"linear4": 1})
    figures = large_task.measure(servers, TINY).figures
    assert figures.keys() >= {"large_task_cold", "large_task_rate", "large_task_against_linear4"}


def test_payloads_come_back_as_they_were_carried(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "CREATED_AT_ONCE", 2)
    monkeypatch.setattr(payloads, "TASKS", 4)
    found = payloads.measure(servers, TINY)
    assert found.size == 4000
    assert min(found.figures["payload_rate"]) > 0


def test_memory_is_read_as_steps_go_by(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FIRST_STEPS", 400)
    found = memory.measure(servers, TINY)
    assert found.size == 800
    assert [*found.details["megabytes"]] == ["400", "800"]
    assert min(found.details["megabytes"].values()) > 1


@pytest.mark.long
def test_brokers_are_measured_beside_each_other_and_nothing_is_left_on_either(
    tasker_server: ScratchDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_or_skip().close()
    monkeypatch.setattr(transport, "POOLS", ("threads",))
    monkeypatch.setattr(transport, "TRIAL_TASKS", 10)
    names: list[str] = []
    made = transport.make_app
    monkeypatch.setattr(transport, "make_app", lambda broker, name: names.append(name) or made(broker, name))
    with bench_servers.servers(database_url=tasker_server.url, redis_url=REDIS_URL, rabbitmq=False) as at:
        figures = transport.measure(at, TINY).figures
        with Redis.from_url(REDIS_URL) as redis:
            assert [key for name in names for key in redis.scan_iter(f"*{name}*")] == []
    close_leftovers()
    assert len(names) == 2
    assert min(min(values) for values in figures.values()) > 0
    assert figures.keys() >= {"transport_threads_rate_ratio", "transport_threads_redis_control_shutdown_max_ms"}


def test_figures_replace_those_that_a_run_had_and_a_program_that_fails_stops_no_other(
    tasker_server: ScratchDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Found:
        raise RuntimeError("no handoffs today")

    def finds(at: Servers, sizes: Sizes) -> Found:
        return Found({"payload_rate": [float(at.postgresql.written()[0])]}, size=sizes.payload_bytes)

    monkeypatch.setitem(PROGRAMS, "handoff", fails)
    monkeypatch.setitem(PROGRAMS, "payloads", finds)
    old = {"values": [-1.0], "size": 1}
    run: dict[str, Any] = {"figures": {"handoff_same_ms": old, "payload_rate": old}}
    kept: list[list[str]] = []
    failed = measure_into(
        run,
        ["handoff", "payloads"],
        TINY,
        database_url=tasker_server.url,
        keep=lambda: kept.append([*run["figures_from"]]),
    )
    assert failed == run["figures_failed"] == {"handoff": "RuntimeError: no handoffs today"}
    assert run["figures"]["handoff_same_ms"] == old
    assert run["figures"]["payload_rate"]["size"] == TINY.payload_bytes
    assert run["figures"]["payload_rate"]["values"][0] > 0
    assert run["figures_from"]["payloads"]["seconds"] > 0
    assert kept == [[], ["payloads"]]
