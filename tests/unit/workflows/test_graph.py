from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasker.config.settings import Settings
from tasker.workflows.checks import Limits, check_limits
from tasker.workflows.graph import deepest_path, find_cycle, levels, topological_order
from tasker.workflows.loading import build_template, load_template
from tasker.workflows.model import WorkflowTemplate
from tasker.workflows.problems import InvalidTemplate
from tasker.workflows.yaml_source import Source


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, tuple[str, ...]]:
    """Acyclic graphs whose steps stand in any order."""
    count = draw(st.integers(1, 12))
    names = [f"s{number}" for number in range(count)]
    edges: dict[str, tuple[str, ...]] = {}
    for index, name in enumerate(names):
        edges[name] = tuple(draw(st.sets(st.sampled_from(names[:index])))) if index else ()
    return {name: edges[name] for name in draw(st.permutations(names))}


@given(graphs())
def test_every_step_comes_after_all_it_depends_on(graph: dict[str, tuple[str, ...]]) -> None:
    order = topological_order(graph)
    assert sorted(order) == sorted(graph)
    place = {name: index for index, name in enumerate(order)}
    assert all(place[needed] < place[name] for name in graph for needed in graph[name])
    assert find_cycle(graph) is None


@given(graphs())
def test_the_deepest_path_is_a_path_as_long_as_there_are_levels(graph: dict[str, tuple[str, ...]]) -> None:
    path = deepest_path(graph)
    assert len(path) == max(levels(graph).values()) + 1
    assert all(parent in graph[child] for parent, child in itertools.pairwise(path))


def test_an_order_that_already_fits_is_kept() -> None:
    graph = {"a": (), "c": ("a",), "b": ("a",), "e": ("b",), "d": ("c", "b")}
    assert topological_order(graph) == ["a", "c", "b", "e", "d"]


def test_steps_written_backwards_are_turned_around() -> None:
    assert topological_order({"c": ("b",), "b": ("a",), "a": ()}) == ["a", "b", "c"]


def test_a_cycle_is_named_from_its_first_step_in_the_document() -> None:
    graph = {"start": (), "b": ("c", "start"), "a": ("b",), "c": ("a",)}
    assert find_cycle(graph) == ["b", "a", "c", "b"]


def test_a_chain_of_thousands_is_no_matter_of_recursion() -> None:
    graph: dict[str, tuple[str, ...]] = {"s0": ()}
    graph |= {f"s{number}": (f"s{number - 1}",) for number in range(1, 5_000)}
    assert topological_order(graph)[-1] == "s4999"
    assert len(deepest_path(graph)) == 5_000


def chain(length: int) -> WorkflowTemplate:
    steps = [
        {"name": f"s{number}", "handler": {"callable": "a.b"}, "depends_on": [f"s{number - 1}"] if number else []}
        for number in range(length)
    ]
    return build_template(Source({"name": "chain", "namespace_name": "ns", "version": "1.0.0", "steps": steps}))


def test_a_chain_beyond_the_limit_is_refused_with_its_length() -> None:
    problems = list(check_limits(chain(7), Limits(max_workflow_steps=100, max_depth=6)))
    assert [str(problem) for problem in problems] == [
        "template: step 's6': the chain s0 -> s1 -> s2 -> ... -> s6 is 7 steps long; "
        "engine.dependency_graph.max_depth allows 6"
    ]
    assert not list(check_limits(chain(7), Limits(max_workflow_steps=100, max_depth=7)))


def test_more_steps_than_allowed_are_refused_when_the_workflow_is_registered() -> None:
    settings = Settings.model_validate({"system": {"max_workflow_steps": 3}})
    with pytest.raises(InvalidTemplate, match=re.escape("steps: has 4 steps; system.max_workflow_steps allows 3")):
        chain(4).to_definition(settings)


def test_a_dependency_may_stand_later_in_the_document() -> None:
    template = load_template(
        "name: a\nnamespace_name: b\nversion: 1.0.0\nsteps:\n"
        "  - {name: last, handler: {callable: a.b}, depends_on: [first]}\n"
        "  - {name: first, handler: {callable: a.b}}\n"
    )
    assert [step["name"] for step in template.to_definition(Settings())["steps"]] == ["first", "last"]
