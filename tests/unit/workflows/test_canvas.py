"""Canvases as workflows: what becomes of each element, that it computes what Celery does, and what is refused."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import celery
import pytest
from celery import Celery, chain, chord, group, signature
from hypothesis import given
from hypothesis import strategies as st
from kombu import Queue

from tasker import Retry, Workflow, from_canvas
from tasker.config.settings import Settings
from tasker.workflows.celery_calls import build_call
from tasker.workflows.problems import InvalidTemplate

app = Celery("shop", set_as_current=False)
# Its tasks run where they are called: what comes out is what Celery makes of a canvas.
app.conf.update(task_always_eager=True, task_store_eager_result=False)


@app.task(name="shop.seen", bind=True)
def seen(self: Any, *args: Any, **kwargs: Any) -> list[Any]:
    """What it was called with."""
    return [list(args), dict(sorted(kwargs.items()))]


@app.task(name="shop.addUp")
def add_up(*args: Any) -> list[Any]:
    return list(args)


# Where the declaration says it, Celery warns.
app.tasks["shop.addUp"].queue = "sums"
app.tasks["shop.addUp"].priority = 3


@app.task(name="shop.add")
def add(x: int, y: int) -> int:
    return x + y


def translated(canvas: Any, **options: Any) -> Workflow:
    return from_canvas(canvas, "shop", "canvas", version="1.0.0", **options)


def steps(canvas: Any, **options: Any) -> dict[str, tuple[dict[str, Any], list[str]]]:
    """By name: what each step's task is called with, and what the step waits for."""
    template = translated(canvas, **options).template
    return {step.name: (step.handler.initialization, list(step.depends_on)) for step in template.steps}


def results(workflow: Workflow, context: Any = None) -> dict[str, Any]:
    """Results of all steps, run in an order that the graph allows."""
    found: dict[str, Any] = {}
    for step in workflow.template.to_definition(Settings())["steps"]:
        handler = step["handler"]
        # As the executor has them: nothing but what the step depends on.
        call = build_call(handler["initialization"], context, {name: found[name] for name in step["depends_on"]})
        task = app.tasks[handler["callable"].removeprefix("celery:")]
        found[step["name"]] = json.loads(json.dumps(task.apply(call.args, call.kwargs).get()))
    return found


def result(name: str) -> dict[str, str]:
    return {"$result": name}


# -- elements --------------------------------------------------------------------------------------------------------


def test_a_task_is_a_step() -> None:
    assert steps(add.s(1, y=2)) == {"add": ({"args": [1], "kwargs": {"y": 2}}, [])}


def test_a_chain_hands_each_result_on_in_front_of_the_arguments_that_stand_there() -> None:
    assert steps(chain(add.s(1, 2), add.s(3), seen.s(4, key=5))) == {
        "add": ({"args": [1, 2]}, []),
        "add_2": ({"args": [result("add"), 3]}, ["add"]),
        "seen": ({"args": [result("add_2"), 4], "kwargs": {"key": 5}}, ["add_2"]),
    }


def test_an_immutable_task_waits_and_takes_nothing() -> None:
    assert steps(chain(add.si(1, 2), add.si(3, 4), seen.si())) == {
        "add": ({"args": [1, 2]}, []),
        "add_2": ({"args": [3, 4]}, ["add"]),
        "seen": ({"args": []}, ["add_2"]),
    }


def test_a_group_runs_side_by_side_and_each_gets_what_came_before() -> None:
    assert steps(chain(seen.s(), group(add.s(1), add.s(2)))) == {
        "seen": ({"args": []}, []),
        "add": ({"args": [result("seen"), 1]}, ["seen"]),
        "add_2": ({"args": [result("seen"), 2]}, ["seen"]),
    }


def test_the_body_of_a_chord_gets_the_list_of_results() -> None:
    header = [result("add"), result("add_2")]
    expected = {
        "add": ({"args": [1, 2]}, []),
        "add_2": ({"args": [3, 4]}, []),
        "seen": ({"args": [header, 5]}, ["add", "add_2"]),
    }
    assert steps(chord([add.s(1, 2), add.s(3, 4)], seen.s(5))) == expected
    # A group that a task follows is one.
    assert steps(group(add.s(1, 2), add.s(3, 4)) | seen.s(5)) == expected
    assert steps(chain(group(add.s(1, 2), add.s(3, 4)), seen.s(5))) == expected


def test_an_immutable_body_waits_for_all_of_its_header() -> None:
    assert steps(chord([add.s(1, 2), add.s(3, 4)], seen.si()))["seen"] == ({"args": []}, ["add", "add_2"])


def test_canvases_nest() -> None:
    inner = chord([chain(add.s(1, 2), add.s(3)), group(add.s(4, 5), add.s(6, 7))], chain(seen.s(), seen.s("a")))
    canvas = chain(seen.s("first"), group(inner.set(immutable=True), add_up.s("b")), add_up.s("last"))
    assert {name: needed for name, (_call, needed) in steps(canvas).items()} == {
        "seen": [],
        "add": ["seen"],
        "add_2": ["add"],
        "add_3": ["seen"],
        "add_4": ["seen"],
        "seen_2": ["add_2", "add_3", "add_4"],
        "seen_3": ["seen_2"],
        "add_up": ["seen"],
        "add_up_2": ["seen_3", "add_up"],
    }


def test_partial_arguments_go_to_the_tasks_that_run_first() -> None:
    canvas = chord([seen.s("a"), chain(seen.s("b"), seen.s("c"))], seen.s(), args=(1,), kwargs={"kwargs": {"k": 2}})
    assert {name: call for name, (call, _needed) in steps(canvas).items()} == {
        "seen": {"args": [1, "a"], "kwargs": {"k": 2}},
        "seen_2": {"args": [1, "b"], "kwargs": {"k": 2}},
        "seen_3": {"args": [result("seen_2"), "c"]},
        "seen_4": {"args": [[result("seen"), result("seen_3")]]},
    }
    line = chain(seen.s("a"), seen.s())
    line.args = (1, 2)
    assert steps(line)["seen"] == ({"args": [1, 2, "a"]}, [])


def test_the_context_stands_wherever_its_reference_does() -> None:
    flow = translated(chain(add.s({"$context": "/amount"}, 1), seen.s(to={"$context": "/who"})))
    assert results(flow, {"amount": 41, "who": "ada"})["seen"] == [[42], {"to": "ada"}]


def test_map_and_starmap_stay_one_task_each_and_chunks_are_several() -> None:
    assert results(translated(seen.map([1, 2]))) == {"seen_map": [[[1], {}], [[2], {}]]}
    assert results(translated(add.starmap([(1, 2), (3, 4)]))) == {"add_starmap": [3, 7]}
    found = results(translated(add.chunks([(1, 2), (3, 4), (5, 6)], 2)))
    assert found == {"add_starmap": [3, 7], "add_starmap_2": [11]}
    (call, _needed) = steps(add_up.map([1]))["add_up_map"]
    assert call["queue"] == "sums"


def test_a_callback_is_a_step_beside_the_next() -> None:
    first = add.s(1, 2)
    first.link(seen.s("told"))
    assert steps(chain(first, add.s(3))) == {
        "add": ({"args": [1, 2]}, []),
        "seen": ({"args": [result("add"), "told"]}, ["add"]),
        "add_2": ({"args": [result("add"), 3]}, ["add"]),
    }


def test_a_serialized_canvas_is_the_same() -> None:
    canvas = chain(add.s(1, 2), group(add.s(3), add.s(4)), seen.s(), chord([add.si(1, 1)], seen.s()))
    assert steps(json.loads(json.dumps(canvas))) == steps(canvas)


def test_what_does_nothing_is_left_out() -> None:
    canvas = chain(add.s(1, 2), group([]), group(add.s(3)), chain(seen.s()))
    assert [needed for _call, needed in steps(canvas).values()] == [[], ["add"], ["add_2"]]
    assert steps(chord([], seen.s("x"))) == {"seen": ({"args": [[], "x"]}, [])}


def test_steps_are_named_after_their_tasks() -> None:
    canvas = group(signature("Shop.ChargeCard2"), signature("3d.render"), signature("x" * 80), signature("x" * 80))
    assert list(steps(canvas)) == ["charge_card2", "render", "x" * 63, f"{'x' * 61}_2"]
    assert list(steps(group(signature("shop.3d"), signature("shop.---")))) == ["task_3d", "task"]


# -- options ---------------------------------------------------------------------------------------------------------


def test_options_go_with_their_step() -> None:
    options = {"routing_key": "k", "exchange": "e", "expires": 5, "time_limit": 2, "ignore_result": True}
    assert steps(add.s(1, 2).set(**options)) == {"add": ({"args": [1, 2], **options}, [])}
    assert steps(add.s(1, 2).set(queue=Queue("cards"), countdown=0))["add"][0] == {"args": [1, 2], "queue": "cards"}


def test_what_a_tasks_declaration_says_of_its_routing_is_kept_unless_the_canvas_rules_over_it() -> None:
    assert steps(add_up.s())["add_up"][0] == {"args": [], "queue": "sums", "priority": 3}
    assert steps(add_up.s().set(queue="others"))["add_up"][0]["queue"] == "others"


def test_options_of_a_canvas_go_where_celery_puts_them() -> None:
    a, b, c = seen.s("a"), seen.s("b"), seen.s("c")

    def queues(canvas: Any) -> list[str | None]:
        return [call.get("queue") for call, _needed in steps(canvas).values()]

    assert queues(chain(a, b).set(queue="q")) == ["q", None]
    assert queues(group(a, b, queue="q")) == ["q", "q"]
    assert queues(chord([a, b], c).set(queue="q")) == ["q", "q", "q"]
    assert queues(chord([a, b], chain(c, c)).set(queue="q")) == ["q", "q", "q", None]
    delayed = steps(chord([a, b], c).set(countdown=5))
    assert [call.get("countdown") for call, _needed in delayed.values()] == [5, 5, None]


def test_retries_and_timeout_are_each_steps() -> None:
    flow = translated(chain(add.s(1, 2), add.s(3)), retry=Retry(max_attempts=7), timeout_seconds=9, description="d")
    assert flow.template.description == "d"
    assert {(step.retry.max_attempts, step.timeout_seconds) for step in flow.template.steps} == {(7, 9)}


def test_the_workflow_can_be_gone_on_with() -> None:
    flow = translated(chord([add.s(1, 2), add.s(3, 4)], add_up.s()))

    @flow.step(depends_on=["add_up"])
    def report(ctx: Any) -> None: ...

    assert flow.template.step("report").depends_on == ("add_up",)


# -- the same as Celery ----------------------------------------------------------------------------------------------

tasks = st.builds(
    lambda task, args, kwargs, immutable: signature(task.name, args=args, kwargs=kwargs, immutable=immutable, app=app),
    st.just(seen),
    st.lists(st.integers(0, 9), max_size=2).map(tuple),
    st.dictionaries(st.sampled_from("kl"), st.integers(0, 9), max_size=1),
    st.booleans(),
)


def containers(elements: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    chains = st.lists(elements, min_size=1, max_size=3).map(lambda found: chain(*found, app=app))
    folded = st.lists(elements, min_size=2, max_size=3).map(lambda found: chain(*found))
    # Celery's eager mode hands groups directly in groups, and groups of one in chains, on as they are. Its workers
    # take them apart: tests/e2e/test_canvas.py.
    members = elements.filter(lambda found: not isinstance(found, group))
    chords = st.builds(
        lambda header, body: chord(header, body, app=app), st.lists(members, min_size=1, max_size=3), elements
    )
    groups = st.lists(members, min_size=2, max_size=3).map(lambda found: group(found, app=app))
    return st.one_of(chains, folded, chords, groups)


canvases = st.recursive(tasks, containers, max_leaves=8)


# Of older Celery, the eager mode loses parts of chords.
EAGER_MODE_IS_RIGHT = celery.VERSION[:2] >= (5, 7)


def computed(canvas: Any, *before: Any) -> Any:
    """What a canvas of ``seen`` returns, by what Celery's documentation says of each element."""
    match canvas.get("subtask_type"):
        case "chain":
            for element in canvas.tasks:
                before = (computed(element, *before),)
            return before[0]
        case "group":
            return [computed(member, *before) for member in canvas.tasks]
        case "chord":
            header = canvas.kwargs["header"]
            members = header.tasks if isinstance(header, group) else header
            return computed(canvas.kwargs["body"], [computed(member, *before) for member in members])
    return [[*(() if canvas.immutable else before), *canvas.args], dict(sorted(canvas.kwargs.items()))]


@given(canvases)
def test_every_canvas_computes_what_celery_computes(canvas: Any) -> None:
    expected = [computed(canvas)]
    collected = chain(canvas, signature("shop.addUp", app=app))
    flow = translated(json.loads(json.dumps(collected)))
    assert results(flow)[flow.template.steps[-1].name] == expected
    if EAGER_MODE_IS_RIGHT:
        assert json.loads(json.dumps(collected.apply().get())) == expected


# -- what is refused -------------------------------------------------------------------------------------------------


def frozen() -> Any:
    canvas = add.s(1, 2)
    canvas.freeze()
    return canvas


def with_attribute(canvas: Any, name: str, value: Any) -> Any:
    setattr(canvas, name, value)
    return canvas


def with_error_callback() -> Any:
    canvas = add.s(1, 2)
    canvas.link_error(seen.s())
    return canvas


@pytest.mark.parametrize(
    ("canvas", "said"),
    [
        (lambda: add, "canvas: <@task: shop.add of shop at 0x"),
        (lambda: add, "is no signature: pass its signature, shop.add.s(…)"),
        (lambda: group(add.s(1, 2), chain(add.s(1, 2), add, app=app)), "group[1].chain[1]: <@task: shop.add"),
        (lambda: {"name": "x"}, "canvas: {'name': 'x'} is no signature"),
        (lambda: chain(), "canvas: a chain is empty: there is nothing to run"),
        (lambda: group([]), "canvas: a group is empty: there is nothing to run"),
        (lambda: chord([add.s(1, 2)]), "canvas: a chord has no body"),
        (frozen, "canvas: shop.add was frozen or sent before (task_id, reply_to): build the canvas anew"),
        (
            lambda: chain(add.s(1, 2), with_error_callback()),
            "chain[1]: shop.add has a link_error, which a graph has no place for: leave it out, use the workflow's "
            "on_error",
        ),
        (
            lambda: chord([add.s(1, 2), add.s(1, 2).set(eta=dt.datetime.now(dt.UTC))], seen.s()),
            "header[1]: shop.add has an option without a counterpart: eta is a moment, and a workflow runs more than "
            "once: use countdown, or run_at when the task is created",
        ),
        (
            lambda: chord([add.s(1, 2)], seen.s().set(compression="gzip")),
            "body: shop.seen has an option that a step cannot have: compression",
        ),
        (
            lambda: chain(add.s(1, 2), group(seen.s(), seen.s().set(time_limits=3))),
            "chain[1].group[1]: shop.seen has an option that a step cannot have: time_limits, did you mean",
        ),
        (
            lambda: add.s(dt.date(2030, 1, 2), y={"when": [float("nan")]}),
            "canvas: shop.add cannot be written down: args[0] is a date; a template holds plain JSON",
        ),
        (lambda: add.s(1, y={"when": [float("nan")]}), "cannot be written down: kwargs.y.when[0] is nan"),
        (lambda: add.s({1: 2}, 3), "cannot be written down: args[0] has the key 1, which is no text"),
        (
            lambda: with_attribute(group(add.s(1, 2)), "args", (1,)),
            "canvas: a group loses its arguments in Celery, too: give them to its tasks",
        ),
        (
            lambda: with_attribute(line := chain(add.s(1), add.s(2)), "kwargs", {**line.kwargs, "y": 3}),
            "canvas: a chain loses its keyword arguments in Celery, too: give them to its first task",
        ),
        (
            lambda: group(add.s(1, 2)).set(link=[seen.s()]),
            "canvas: a group cannot have callbacks in Celery, either: use a chord",
        ),
        (lambda: {**add.s(1, 2), "subtask_type": "spiral"}, "kind that is not known: 'spiral'"),
        (
            lambda: add.s(1, 2).set(expires=dt.datetime.now(dt.UTC)),
            "step 'add': handler.initialization",
        ),
        (lambda: add.s(1, 2).set(priority=1000), "priority: must be a whole number from 0 to 255"),
        (lambda: add.s({"$result": "elsewhere"}, 1), "$result names 'elsewhere', on which the step does not depend"),
    ],
)
def test_what_has_no_counterpart_is_refused_with_the_element_that_has_it(canvas: Any, said: str) -> None:
    with pytest.raises(InvalidTemplate) as caught:
        translated(canvas())
    assert said in str(caught.value)
    assert __file__ in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    canvas = chain(add.s(1, 2).set(compression="gzip"), with_error_callback(), group(frozen(), seen.s()))
    with pytest.raises(InvalidTemplate) as caught:
        translated(canvas)
    assert [problem.field for problem in caught.value.problems] == ["chain[0]", "chain[1]", "chain[2].group[0]"]
