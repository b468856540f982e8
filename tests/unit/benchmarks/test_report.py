"""What the bench makes of the figures of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import publish, reading, report
from benchmarks.bars import bars
from benchmarks.profiling import DATABASE, DRIVER, EXECUTOR, HANDLER, IDLE, kind_of, shares
from benchmarks.reading import Spread, percentile

RECORDED = Path(__file__).parent / "run.json"


@pytest.fixture
def run() -> dict[str, Any]:
    """A run of three rounds, made short by hand."""
    found: dict[str, Any] = json.loads(RECORDED.read_text())
    return found


def rows(table: reading.Table) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in table[2]}


def verdicts(run: dict[str, Any]) -> dict[str, str]:
    return {bar.figure: bar.verdict for bar in bars(run)}


@pytest.mark.parametrize(("percent", "value"), [(50, 5), (95, 10), (99, 10), (90, 9), (1, 1)])
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(percent: float, value: float) -> None:
    assert percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], percent) == value


def test_throughput_is_steps_by_seconds_of_each_round(run: dict[str, Any]) -> None:
    assert reading.throughput(run, "tasker-hosted", "linear4") == {0: 8000, 1: 10000, 2: 9000}
    assert rows(report.throughput_table(run))["tasker-hosted"][0] == "9,000 (8,000–10,000)"


def test_a_ratio_is_formed_within_a_round_before_the_median_is_taken(run: dict[str, Any]) -> None:
    # 8000/200, 10000/200 and 9000/300: neither the ratio of the medians (45) nor that of the best (33)
    assert rows(report.ratio_table(run))["celery-redis"][0] == "40× (30×–50×)"


def test_an_engine_without_a_shape_has_no_figure_for_it(run: dict[str, Any]) -> None:
    assert rows(report.throughput_table(run))["celery-redis"][1] == "–"


def test_latency_is_the_median_of_the_percentiles_of_rounds(run: dict[str, Any]) -> None:
    assert rows(report.latency_table(run))["tasker-hosted"][:2] == ["5 (4–7)", "9 (8–20)"]


def test_costs_are_given_for_a_step_and_for_a_thousand(run: dict[str, Any]) -> None:
    assert reading.cpu(run, "tasker-hosted", "workers") == Spread(0.05, 0.05, 0.05)
    assert reading.cpu(run, "tasker-hosted", "servers") == Spread(0.125, 0.125, 0.125)
    assert reading.per_step(run, "tasker-hosted", "commits") == Spread(0.04, 0.04, 0.04)
    assert reading.per_step(run, "celery-redis", "commits") is None
    assert rows(report.cost_table(run))["tasker-hosted"][3:6] == ["0.0125", "230", "0.05"]


def test_a_bar_is_met_by_the_median_or_said_not_to_be_measured(run: dict[str, Any]) -> None:
    found = verdicts(run)
    assert found["linear4, against celery-redis"] == "met"
    assert found["linear4, against absurd"] == "not measured"
    assert found["linear4, against the floor"] == "NOT met"
    assert found["latency p50, ms"] == "met"
    assert found["latency p50, ms, the lowest of all"] == "met"
    assert found["CPU s for 1,000 steps, servers and workers"] == "NOT met"
    assert found["Celery worker of two executors, MB"] == "met"
    assert found["create_many, tasks/s"] == "met"
    assert found["idle executor, statements/s"] == "met"
    assert found["handoff p50, same executor, ms"] == "not measured"


def test_a_single_figure_counts_for_its_bar_if_what_was_large_was_large_enough(run: dict[str, Any]) -> None:
    run["figures"] = {
        "handoff_same_ms": {"values": [0.4, 0.5, 1.5], "size": 100},
        "growth_finished": {"values": [0.8], "size": 1_000_000},
        "growth_finished_p50": {"values": [1.05], "size": 1_000_000},
        "growth_templates": {"values": [1.0], "size": 100},
    }
    found = verdicts(run)
    assert found["handoff p50, same executor, ms"] == "met"
    assert found["1,000,000 finished tasks: throughput, against none"] == "NOT met"
    assert found["1,000,000 finished tasks: latency p50, against none"] == "met"
    assert found["10,000 templates: throughput, against none"] == "not measured"


def test_what_failed_or_was_left_out_is_told_with_its_reason(run: dict[str, Any]) -> None:
    run["figures_failed"] = {"memory": "TimeoutError: it took too long"}
    text = report.text(run)
    assert "FAILED: TimeoutError: it took too long" in text
    assert "FAILED: dbos: TimeoutError: 3 tasks are open" in text
    assert "one task would take about 40 s" in text
    assert "2026-11-28, revision abc1234." in text


def test_a_page_gets_the_figures_between_its_comments_and_keeps_the_rest(run: dict[str, Any]) -> None:
    page = f"# Title\n\n{publish.BEGIN}\nold\n{publish.END}\n\nlast words\n"
    run["figures"] = {"memory_growth": {"values": [1.02], "size": 1_000_000}}
    new = publish.with_figures(page, run)
    assert new.startswith(f"# Title\n\n{publish.BEGIN}\n")
    assert new.endswith(f"{publish.END}\n\nlast words\n")
    assert "old" not in new
    assert "### Single figures" in new
    assert "9,000 (8,000–10,000)" in new
    assert publish.with_figures(new, run) == new


def test_a_page_without_a_place_for_figures_is_refused(run: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="lacks the comments"):
        publish.with_figures("# Title\n", run)


def test_the_page_in_the_documentation_has_a_place_for_figures(run: dict[str, Any]) -> None:
    assert "9,000 (8,000–10,000)" in publish.with_figures(publish.PAGE.read_text(encoding="utf-8"), run)


LOOP = "main (benchmarks/profiling.py:1);ExecutorLoop.run_until_idle (tasker/executors/loop.py:1)"


@pytest.mark.parametrize(
    ("inner", "kind"),
    [
        ("Cursor.execute (psycopg/cursor.py:1);Connection.wait (psycopg/connection.py:1)", DATABASE),
        ("BaseCursor._send_query_prepared (psycopg/_cursor_base.py:1)", DRIVER),
        ("step (benchmarks/engines/tasker_handlers.py:1);Runs.add (benchmarks/shapes.py:1)", HANDLER),
        ("wait_readable (tasker/executors/wake.py:1);select (selectors.py:1)", IDLE),
        ("StepExecutor.drain (tasker/executors/step_executor.py:1)", EXECUTOR),
    ],
)
def test_a_stack_belongs_to_the_part_of_the_work_that_it_ends_in(inner: str, kind: str) -> None:
    assert kind_of(f"{LOOP};{inner}") == kind


def test_shares_are_of_the_loop_alone_without_its_rest() -> None:
    raw = (
        f"MainThread;{LOOP};Connection.wait (psycopg/connection.py:1) 30\n"
        f"MainThread;{LOOP};StepExecutor.drain (tasker/executors/step_executor.py:1) 10\n"
        f"MainThread;{LOOP};wait_readable (tasker/executors/wake.py:1) 500\n"
        "MainThread;main (benchmarks/profiling.py:1);import (x.py:1) 70\n"
        "tasker-completer;Completer._run (tasker/executors/completer.py:1) 90\n"
    )
    assert shares(raw) == {DATABASE: 0.75, EXECUTOR: 0.25}
