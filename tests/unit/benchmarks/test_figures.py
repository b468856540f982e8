"""The tables of single figures, and the command that measures them."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import pytest

from benchmarks.figures.__main__ import arguments, sizes_of
from benchmarks.figures.pairs import Turns
from benchmarks.figures.sizes import FULL, SMALL
from benchmarks.figures.tables import (
    TABLES,
    control_table,
    dearer_table,
    growth_table,
    origin_table,
    single_table,
    snapshot_table,
    transport_table,
)


def figure(*values: float, size: float = 1000) -> dict[str, Any]:
    return {"values": list(values), "size": size}


GROWN = {
    "growth_finished": figure(0.9, 1.0, 0.8),
    "growth_finished_rate_small": figure(1000, 1100, 1000),
    "growth_finished_rate_large": figure(900, 1100, 800),
    "growth_finished_cpu": figure(1.25),
    "growth_finished_ms_small": figure(5.0),
    "growth_finished_ms_large": figure(6.0),
    "growth_finished_p50": figure(1.2),
    "growth_finished_tick_small": figure(10.0, 12.0, 11.0),
    "growth_finished_tick_large": figure(20.0),
}


def tables_at(*bytes_of_steps: int) -> dict[str, Any]:
    return {"workflow_steps": {"dead": 1200, "bytes": sum(bytes_of_steps) * 2**20}}


def test_a_run_without_single_figures_has_no_tables_of_them() -> None:
    assert [table({}) for table in TABLES if table({})[2]] == []


def test_growth_shows_both_sides_and_their_ratio_by_round() -> None:
    _, head, rows = growth_table({"figures": GROWN})
    assert len(head) == len(rows[0])
    assert rows == [
        [
            "1,000 finished tasks",
            "1,000 (1,000–1,100)",
            "900 (800–1,100)",
            "0.90× (0.80×–1.00×)",
            "1.25×",
            "5",
            "6",
            "1.20×",
            "11 → 20",
        ]
    ]


def test_what_became_dearer_is_told_only_where_it_rose_by_a_tenth_and_more() -> None:
    details = {
        "functions": {"claim_steps": [10.0, 30.0], "create_tasks": [100.0, 105.0], "uuid7": [0.1, 0.9]},
        "missed": {"tasks": [0.0, 2.0]},
    }
    _, _, rows = dearer_table({"figures": GROWN, "figures_details": {"finished": details}})
    assert [row[1:] for row in rows] == [
        ["own µs of `claim_steps`", "10", "30"],
        ["blocks read from the system of `tasks`", "0", "2"],
    ]


def test_a_snapshot_is_shown_at_a_few_moments_from_first_to_last() -> None:
    over_time = [
        {"seconds": n, "rate": 1 - n / 100, "p50": 1.0, "tables": tables_at(2, n), "tables_without": tables_at(2)}
        for n in range(50)
    ]
    _, head, rows = snapshot_table({"figures_details": {"snapshot": {"over_time": over_time}}})
    assert {len(row) for row in rows} == {len(head)}
    assert [row[0] for row in rows] == ["0", "10", "20", "29", "39", "49"]
    assert rows[-1][1:6] == ["0.51×", "1.00×", "1,200", "2.0", "51.0"]


def test_two_moments_of_a_short_snapshot_are_two_rows() -> None:
    moments = [
        {"seconds": n, "rate": 1.0, "p50": 1.0, "tables": tables_at(1), "tables_without": tables_at(1)} for n in (0, 1)
    ]
    assert len(snapshot_table({"figures_details": {"snapshot": {"over_time": moments}}})[2]) == 2


def test_single_figures_say_how_large_the_large_was() -> None:
    _, _, rows = single_table({"figures": {"payload_rate": figure(300, 310, size=100_000)}})
    assert rows == [["contexts and results of 100 kB, one executor, steps/s", "305 (300–310)"]]


def test_brokers_stand_side_by_side_and_what_a_pool_cannot_do_is_left_open() -> None:
    figures = {
        "transport_threads_pgmq_rate": figure(900),
        "transport_threads_redis_rate": figure(600),
        "transport_threads_rate_ratio": figure(1.5),
        "transport_prefork_pgmq_control_pool_grow_p50_ms": figure(3.0),
        "transport_prefork_pgmq_control_pool_grow_max_ms": figure(4.0),
    }
    assert transport_table({"figures": figures})[2] == [["threads: tasks/s", "900", "600", "1.50×"]]
    _, head, rows = control_table({"figures": figures})
    assert rows == [["`pool_grow`", "3 / 4", "– / –", "– / –", "– / –"]]
    assert len(head) == len(rows[0])


def test_each_program_tells_where_its_figures_are_from() -> None:
    at = {
        "size": 1_000_000,
        "date": "2026-11-28T10:00:00+00:00",
        "revision": "abc1234",
        "changed": True,
        "machine": {"load_before": [0.25, 0.1, 0.1]},
        "seconds": 300.4,
    }
    _, _, rows = origin_table({"figures_from": {"finished": at}})
    assert rows == [["finished", "1,000,000", "2026-11-28", "abc1234 with changes", "0.25", "300"]]


def test_a_ratio_of_turns_is_formed_within_each_round() -> None:
    samples = [
        {"side": side, "round": number, "ms": ms}
        for side, number, ms in (("small", 0, 1), ("large", 0, 2), ("large", 1, 9), ("small", 1, 3))
    ]
    assert Turns.of(samples, lambda sample: float(sample["ms"])).ratios == [2.0, 3.0]


def given(monkeypatch: pytest.MonkeyPatch, *words: str) -> argparse.Namespace:
    monkeypatch.setattr(sys, "argv", ["figures", *words])
    return arguments()


def test_the_command_measures_small_sizes_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sizes_of(given(monkeypatch)) == SMALL
    assert sizes_of(given(monkeypatch, "--full")) == FULL
    changed = sizes_of(given(monkeypatch, "--full", "--finished", "5000", "--snapshot-seconds", "1.5"))
    assert (changed.finished, changed.snapshot_seconds, changed.waiting) == (5000, 1.5, FULL.waiting)


def test_an_unknown_program_is_refused_with_those_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        given(monkeypatch, "--only", "finished,growht")
    assert "no program growht; there are handoff, " in capsys.readouterr().err
