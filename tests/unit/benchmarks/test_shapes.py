"""The graphs of the bench: what they must compute, and how a run is proved right."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.engines.tasker_setup import template_of
from benchmarks.shapes import MODULUS, SHAPES, Runs, WrongResult
from tasker.workflows.loading import load_template

CHAIN = SHAPES["linear4"]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


@pytest.mark.parametrize(
    ("shape", "n", "value"),
    [
        ("plain", 7, 7),
        ("linear4", 7, 7 + 1 + 2 + 3),
        ("diamond", 7, (7 + 1) + (7 + 2) + 3),
        ("tree8", 1, (1 + 1 + 3) + (1 + 1 + 4) + (1 + 2 + 5) + (1 + 2 + 6) + 7),
        ("mixed7", 5, (5 + 1 + 5 + 2 + 3) + (5 + 1 + 4) + (5 + 2 + 5) + 6),
        ("fan100", 3, 100 * 3 + 5050 + 101),
        ("wide2000", 0, 2000 * 2001 // 2 + 2001),
        ("fan100", MODULUS - 1, (100 * (MODULUS - 1) + 5050 + 101) % MODULUS),
    ],
)
def test_the_value_of_a_task_is_what_its_graph_adds_up_to(shape: str, n: int, value: int) -> None:
    assert SHAPES[shape].expected(n) == value


@pytest.mark.parametrize(
    ("shape", "steps"), [("plain", 1), ("linear4", 4), ("tree8", 8), ("mixed7", 7), ("fan100", 102), ("wide2000", 2002)]
)
def test_a_shape_has_as_many_steps_as_its_name_promises(shape: str, steps: int) -> None:
    assert SHAPES[shape].steps == steps


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_template_of_a_shape_is_the_same_graph(shape: object) -> None:
    assert isinstance(shape, type(CHAIN))
    template = load_template(template_of(shape))
    assert {step.name: list(step.depends_on) for step in template.steps} == {
        k: list(v) for k, v in shape.parents.items()
    }


def write(runs: Runs, *tasks: int, without: tuple[int, int] | None = None) -> None:
    for n in tasks:
        for position in range(CHAIN.steps):
            if (n, position) != without:
                runs.add(n, position)


def test_a_run_of_each_step_is_right(runs: Runs) -> None:
    write(runs, 1, 2, 3)
    runs.verify(CHAIN, [1, 2, 3])


def test_a_missing_run_of_a_handler_is_found(runs: Runs) -> None:
    write(runs, 1, 2, without=(2, 3))
    with pytest.raises(WrongResult, match="1 handler runs are missing, 0 steps"):
        runs.verify(CHAIN, [1, 2])


def test_a_repeated_run_of_a_handler_is_found(runs: Runs) -> None:
    write(runs, 1, 2)
    runs.add(2, 3)
    with pytest.raises(WrongResult, match="0 handler runs are missing, 1 steps"):
        runs.verify(CHAIN, [1, 2])


def test_a_task_that_ran_again_after_it_was_verified_is_found(runs: Runs) -> None:
    write(runs, 1)
    runs.verify(CHAIN, [1])
    write(runs, 2)
    runs.add(1, 0)
    with pytest.raises(WrongResult, match="1 steps ran more than once"):
        runs.verify(CHAIN, [2])


def test_runs_of_tasks_that_nobody_asks_about_do_not_count(runs: Runs) -> None:
    write(runs, 0, 1)
    runs.verify(CHAIN, [1])
