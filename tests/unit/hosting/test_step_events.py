"""Events of steps on their way from executors to the worker: nobody waits, nothing grows, nothing is cut in two."""

from __future__ import annotations

import os
import select

import orjson
import pytest

from tasker.executors import outcomes
from tasker.executors.counters import Counters
from tasker.executors.held import HeldStep
from tasker.executors.step_events import NoSink, StepEvents
from tasker.hosting.event_pipe import EventPipe
from tasker.hosting.event_publisher import EveryGroupBut
from tests.unit.executors.test_held import held


@pytest.fixture
def pipe() -> EventPipe:
    pipe = EventPipe()
    pipe.wanted = True
    return pipe


def told(pipe: EventPipe) -> list[dict[str, object]]:
    return [orjson.loads(event) for event in pipe.read(1_000_000)]


def step() -> HeldStep:
    found = held(now=100.0)
    found.started_at = 100.0
    return found


def test_nothing_is_told_while_nobody_wants_it(pipe: EventPipe) -> None:
    pipe.wanted = False
    events = StepEvents(pipe, Counters())
    events.received([step()])
    events.started(step())
    events.ended(outcomes.completed(step(), b"1"), "complete")
    events.flush()
    assert told(pipe) == []
    assert NoSink().send([b"{}"]) == 1


def test_events_are_told_in_order_with_what_celery_says_of_tasks(pipe: EventPipe) -> None:
    events, one = StepEvents(pipe, Counters()), step()
    events.received([one])
    events.started(one)
    done = outcomes.completed(one, b'{"value":1}')
    done.ended_at = 102.5
    events.ended(done, "complete")
    events.flush()
    received, started, succeeded = told(pipe)
    assert [event["type"] for event in (received, started, succeeded)] == [
        "task-received", "task-started", "task-succeeded",
    ]  # fmt: skip
    assert {event["uuid"] for event in (received, started, succeeded)} == {one.step_uuid}
    assert {event["name"] for event in (received, started, succeeded)} == {one.template.label}
    assert (received["retries"], received["root_id"]) == (one.attempt - 1, one.task_uuid)
    assert (succeeded["runtime"], succeeded["result"]) == (2.5, '{"value":1}')


def test_events_are_json_whatever_steps_are_called_return_and_raise(pipe: EventPipe) -> None:
    events, one = StepEvents(pipe, Counters()), step()
    one.template.label = 'näme"\\space.task.step'
    one.map_index = 3
    text = 'a "quoted"\\ \n ü'
    events.received([one])
    events.ended(outcomes.completed(one, orjson.dumps({"key": 'a "quoted" ü'})), "complete")
    events.ended(outcomes.raised(one, RuntimeError(text)), "error")
    events.flush()
    received, succeeded, failed = told(pipe)
    assert {event["name"] for event in (received, succeeded, failed)} == {one.template.label}
    assert received["kwargs"] == f"{{'task_uuid': '{one.task_uuid}', 'map_index': 3}}"
    assert orjson.loads(str(succeeded["result"])) == {"key": 'a "quoted" ü'}
    assert failed["exception"] == f"RuntimeError({text!r})"


def test_an_attempt_that_is_followed_by_another_is_retried_and_the_last_one_has_failed(pipe: EventPipe) -> None:
    events = StepEvents(pipe, Counters())
    for state in ("waiting_for_retry", "error"):
        events.ended(outcomes.raised(step(), RuntimeError("broken")), state)
    events.flush()
    retried, failed = told(pipe)
    assert (retried["type"], failed["type"]) == ("task-retried", "task-failed")
    assert failed["exception"] == "RuntimeError('broken')"


def test_a_step_that_was_cancelled_while_it_ran_is_revoked(pipe: EventPipe) -> None:
    events = StepEvents(pipe, Counters())
    events.revoked([step()])
    events.flush()
    (revoked,) = told(pipe)
    assert (revoked["type"], revoked["terminated"]) == ("task-revoked", True)


def test_long_results_and_messages_are_shortened(pipe: EventPipe) -> None:
    events = StepEvents(pipe, Counters())
    events.ended(outcomes.completed(step(), '"äöü'.encode() + b"x" * 100_000 + b'"'), "complete")
    events.ended(outcomes.raised(step(), RuntimeError("ü" * 100_000)), "error")
    events.flush()
    assert [event["type"] for event in told(pipe)] == ["task-succeeded", "task-failed"]


def test_a_full_pipe_drops_what_does_not_fit_counts_it_and_never_blocks(pipe: EventPipe) -> None:
    counters = Counters()
    events = StepEvents(pipe, counters)
    sent = 20_000
    for _ in range(sent):
        events.started(step())
    events.flush()
    arrived = len(told(pipe))
    assert 0 < arrived < sent
    assert counters.snapshot()["events_dropped"] == sent - arrived
    # And there is room again.
    events.started(step())
    events.flush()
    assert len(told(pipe)) == 1


def test_events_of_several_processes_do_not_mix(pipe: EventPipe) -> None:
    lines = [orjson.dumps({"from": number, "filler": "x" * 700}) for number in range(4)]
    children = []
    for line in lines:
        pid = os.fork()
        if pid == 0:
            try:
                pipe.send([line] * 20)
            finally:
                os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    arrived = pipe.read(1000)
    assert sorted(arrived) == sorted(lines * 20)


def test_an_event_that_cannot_be_written_whole_is_dropped_alone(pipe: EventPipe) -> None:
    assert pipe.send([b'{"a":1}', b"x" * select.PIPE_BUF, b'{"b":2}']) == 1
    assert pipe.read(10) == [b'{"a":1}', b'{"b":2}']


def test_of_all_groups_of_events_one_can_be_switched_off_and_on_again() -> None:
    groups = EveryGroupBut()
    assert not groups  # as Celery understands "all"
    assert "task" in groups
    groups.discard("task")
    assert groups
    assert "task" not in groups
    assert "worker" in groups
    groups.add("task")
    assert "task" in groups
