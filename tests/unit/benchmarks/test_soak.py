"""What a soak runs, and how it tells whether a figure rises."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from typing import Any

import pytest

from benchmarks.soak.looks import Look, Sizes
from benchmarks.soak.publish import BEGIN, END, with_figures
from benchmarks.soak.series import Series, series_of, trend
from benchmarks.soak.workflows import WORKFLOWS, end_of, priority_of, shape_of

MEGABYTE = 2**20


def look(at: float, **changed: object) -> Look:
    seen = {
        "at": at,
        "created": 200,
        "finished": 100,
        "seconds": 10.0,
        "latency": {"chain": (10.0, 20.0, 30.0)},
        "counts": {"tasks": 7, "open_tasks": 1, "dead_letters": 2, "connections": 9},
        "executors": {"step_executor": 2, "task_finalizer": 1},
        "memory": {"steps": {1: MEGABYTE, 2: 2 * MEGABYTE}, "PostgreSQL": {3: 900 * MEGABYTE}},
        "private": {"steps": MEGABYTE, "PostgreSQL": 40 * MEGABYTE},
        "cpu": {"steps": at * 0.1, "PostgreSQL": at * 0.2},
        "tables": {
            "tasker.tasks": Sizes(3 * MEGABYTE, 10, 4),
            "tasker.task_transitions": Sizes(5 * MEGABYTE, 10, 0),
            "pgmq.q_soak_queue": Sizes(MEGABYTE, 0, 3),
        },
        "load": 1.0,
        **changed,
    }
    return Look(**seen)  # type: ignore[arg-type]  # a look of parts


def test_the_mix_of_a_hundred_tasks_is_the_same_wherever_one_begins() -> None:
    mixes = [Counter(shape_of(n) for n in range(first, first + 100)) for first in (0, 37, 1000)]
    assert mixes[0] == mixes[1] == mixes[2]
    assert set(mixes[0]) == set(WORKFLOWS)


def test_tasks_that_have_to_fail_are_those_whose_last_step_always_does() -> None:
    assert {shape_of(n) for n in range(1000) if end_of(n) == "error"} == {"doomed"}


def test_tasks_of_tenants_come_before_with_and_after_the_others() -> None:
    assert {priority_of(n) for n in range(1000) if shape_of(n) == "limited"} == {-1, 0, 1}
    assert {priority_of(n) for n in range(1000) if shape_of(n) != "limited"} == {0}


def test_a_figure_that_rises_by_one_each_minute_rises_by_sixty_an_hour() -> None:
    found = trend(Series("rows", [(60.0 * minute, 100.0 + minute) for minute in range(11)]), 300, 600)
    assert found is not None
    assert (found.mean, found.per_hour) == (107.5, 60.0)
    assert found.share_per_hour == 0.5581


def test_what_was_before_the_second_half_does_not_count() -> None:
    found = trend(Series("rows", [(0.0, 0.0), (10.0, 50.0), *((float(at), 50.0) for at in range(20, 41, 5))]), 20, 40)
    assert found is not None
    assert (found.mean, found.per_hour) == (50.0, 0.0)


def test_two_looks_are_no_trend() -> None:
    assert trend(Series("rows", [(0.0, 1.0), (10.0, 2.0)]), 0, 10) is None


def test_a_figure_that_is_zero_has_no_share() -> None:
    found = trend(Series("dead letters", [(float(at), 0.0) for at in range(5)]), 0, 5)
    assert found is not None
    assert found.share_per_hour is None


def test_sessions_are_measured_by_what_is_theirs_alone_and_workers_by_all_that_is_resident() -> None:
    found = {series.name: series.points for series in series_of([look(10), look(20)])}
    assert found["memory of steps, MB"] == [(10, 3.0), (20, 3.0)]
    assert found["memory of PostgreSQL, MB"] == [(10, 40.0), (20, 40.0)]


def test_history_is_told_apart_from_tables_and_queues() -> None:
    found = {series.name: series.points[0][1] for series in series_of([look(10), look(20)])}
    assert (found["tables, MB"], found["queues, MB"], found["history, MB"], found["dead rows"]) == (3, 1, 5, 7)


def test_a_window_in_which_nothing_finished_has_no_latency_and_no_cost() -> None:
    looks = [look(10), look(20, finished=0, latency={}), look(30)]
    found = {series.name: series.points for series in series_of(looks)}
    assert [at for at, _ in found["latency of a chain, p50, ms"]] == [10, 30]
    assert found["CPU of a task, ms"] == [(30, 30.0)]


def run_of(*looks: Look) -> dict[str, Any]:
    """As the soak keeps it: through JSON."""
    tally = {"created": 36, "finished": 6, "open": 0, "pruned": 30, "vanished": 0, "complete": 35, "error": 1}
    run = {
        "about": {
            "date": "2026-11-28T17:00:00+00:00",
            "revision": "abc1234",
            "changed": False,
            "machine": {"cores": 2, "processor": "some", "memory_gb": 16.0},
            "python": "3.11.7",
            "servers": {"PostgreSQL": {"server_version": "18.4"}},
        },
        "plan": {"minutes": 60.0, "rate": 20.0, "keep_minutes": 5.0},
        "seconds": 40.0,
        "verdict": {"tally": tally, "given_back": {"released": 4}, "verify": {"is_legal": True}},
        "looks": [dataclasses.asdict(each) for each in looks],
    }
    return dict(json.loads(json.dumps(run)))


def test_the_page_gets_the_figures_of_a_run_in_place_of_those_it_had() -> None:
    run = run_of(*(look(float(at), created=at) for at in range(5, 45, 5)))
    page = with_figures(f"before\n{BEGIN}\nold figures\n{END}\nafter\n", run)
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "old figures" not in page
    assert "`python -m benchmarks.soak --minutes 60 --rate 20`, ended after 1 minutes; 2026-11-28" in page
    (row,) = (line for line in page.splitlines() if line.startswith("| tables, MB"))
    assert [cell.strip() for cell in row.strip("|").split("|")[1:]] == ["3.0", "3.0", "3.0", "3.0", "+0.0", "+0.0%"]
    assert "36 tasks were created, 30 of them had ended and were pruned" in page
    assert "every rule holds" in page
    assert with_figures(page, run) == page


def test_a_page_without_a_place_for_figures_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the comments"):
        with_figures("a page", run_of(look(10)))
