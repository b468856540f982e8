"""Every shape × every place that misbehaves × every way to misbehave, through real executors.

Each test is one way; its cases are all places of all shapes, as tasks of one run. ``-s`` prints how many there were.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tasker.config.sections import DatabaseSettings
from tasker.config.settings import Settings
from tasker.core import OrchestrationCore
from tasker.database import functions
from tasker.database.scratch import ScratchDatabases
from tasker.errors import PermanentError, RetryableError
from tasker.handlers.failures import TOO_LARGE
from tasker.handlers.results import MISMATCH
from tests.integration.executors.engine import Engine, wait_for
from tests.integration.executors.matrix import APART, BY_HAND, SHAPES, Act, Bench, Case, Expected, Turn, succeed

pytestmark = pytest.mark.orchestration

MINUTE: Mapping[str, Any] = {"backoff_base_ms": 60_000, "backoff_max_ms": 60_000}
"""A back-off that only the clock gets a step over."""

DELEGATED: Mapping[str, Any] = {
    "handler": {"callable": "celery:matrix.act", "method": None, "initialization": {}},
    "delegated": True,
    "timeout_seconds": 60,
}

KINDS_PER_DATABASE = 8

Play = Callable[[Bench], None]


@dataclass(frozen=True)
class Kind:
    """One way to misbehave: what is tried, what the step does, its settings, and the story around it."""

    name: str
    play: Play
    acts: Act | None
    step: Mapping[str, Any] = field(default_factory=dict)


KINDS: list[Kind] = []


def kind(name: str, acts: Act | None = None, **step: Any) -> Callable[[Play], Play]:
    """Make the decorated story a kind. Without ``acts`` the step does what every other does."""

    def add(play: Play) -> Play:
        KINDS.append(Kind(name, play, acts, step))
        return play

    return add


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "misbehaviour" in metafunc.fixturenames:
        metafunc.parametrize("misbehaviour", KINDS, ids=[each.name.replace(" ", "_") for each in KINDS])


@pytest.fixture(scope="module")
def table() -> Iterator[Counter[tuple[str, str]]]:
    """How many cases passed, by kind and shape; printed at the end."""
    counted: Counter[tuple[str, str]] = Counter()
    yield counted
    width = max(len(each.name) for each in KINDS)
    print(f"\n\n{'':{width}}  " + " ".join(f"{shape:>8}" for shape in SHAPES) + "    total")
    for each in KINDS:
        row = [counted[each.name, shape] for shape in SHAPES]
        print(f"{each.name:{width}}  " + " ".join(f"{number:8}" for number in [*row, sum(row)]))
    print(f"{len(KINDS)} kinds, {counted.total()} cases")


class Databases:
    """Databases for several kinds each: making one takes as long as running a kind. After a failure comes a new one."""

    def __init__(self, server: ScratchDatabases) -> None:
        self._server = server
        self._url: str | None = None
        self._used = 0

    def take(self) -> str:
        if self._url is None:
            self._url, self._used = self._server.create(), 0
        self._used += 1
        return self._url

    def give_back(self, *, good: bool) -> None:
        if self._url is not None and not (good and self._used < KINDS_PER_DATABASE):
            self._server.drop(self._url)
            self._url = None


@pytest.fixture(scope="module")
def databases(tasker_server: ScratchDatabases) -> Iterator[Databases]:
    made = Databases(tasker_server)
    yield made
    made.give_back(good=False)


@pytest.fixture
def ended_well() -> list[bool]:
    """Not empty once a test has come to its end."""
    return []


@pytest.fixture
def tasker_database_url(databases: Databases, ended_well: list[bool]) -> Iterator[str]:
    yield databases.take()
    databases.give_back(good=bool(ended_well))


@pytest.fixture
def revoked() -> list[str]:
    return []


@pytest.fixture
def core(engine: Engine, revoked: list[str]) -> Iterator[OrchestrationCore]:
    settings = Settings(database=DatabaseSettings(url=engine.database.url))
    with OrchestrationCore.from_settings(settings, revoke=revoked.extend) as core:
        yield core


def test_every_place_of_every_shape(
    misbehaviour: Kind,
    engine: Engine,
    core: OrchestrationCore,
    tasker_clock: Any,
    revoked: list[str],
    table: Counter[tuple[str, str]],
    ended_well: list[bool],
) -> None:
    bench = Bench(engine, core, tasker_clock, acts=misbehaviour.acts, step=misbehaviour.step, revoked=revoked)
    misbehaviour.play(bench)
    table.update((misbehaviour.name, case.shape) for case in bench.cases)
    ended_well.append(True)


# -- what misbehaving steps do ----------------------------------------------------------------------------------------


def refuse(turn: Turn) -> Any:
    raise PermanentError("no such card", code="card_unknown")


def fail(times: int) -> Act:
    """Fail so many times, then succeed."""

    def act(turn: Turn) -> Any:
        if turn.run <= times:
            raise RetryableError("not yet", code="later")
        return succeed(turn.ctx)

    return act


def divide_by_zero(turn: Turn) -> Any:
    return 1 / 0


def leave(turn: Turn) -> Any:
    raise SystemExit(3)


async def cancel_itself(turn: Turn) -> Any:
    raise asyncio.CancelledError


def answer(result: Any) -> Act:
    return lambda turn: result


def spin(turn: Turn) -> Any:
    while True:
        time.sleep(0.01)


def sleep(times: int) -> Act:
    """Sleep for ever so many times, then succeed."""

    async def act(turn: Turn) -> Any:
        if turn.run <= times:
            await asyncio.sleep(3600)
        return succeed(turn.ctx)

    return act


def wait(times: int = 1, *, then: Act = lambda turn: succeed(turn.ctx)) -> Act:
    """Wait at the gate so many times, and go on with ``then``."""

    async def act(turn: Turn) -> Any:
        while turn.run <= times and not turn.gate.is_set():  # noqa: ASYNC110 - another thread opens it
            await asyncio.sleep(0.005)
        return then(turn)

    return act


# -- what follows -----------------------------------------------------------------------------------------------------


def failed(error: str, **more: Any) -> Expected:
    """The step is in error, and what needs it waits for ever."""
    letters = ((error, None),)
    usual: dict[str, Any] = {
        "task": "error", "place": "error", "below": "pending", "error": error, "finishes": ("error",),
        "dead_letters": letters,
    }  # fmt: skip
    return Expected(**{**usual, **more})


def waits(**more: Any) -> Expected:
    """The step waits for its next attempt."""
    usual: dict[str, Any] = {
        "task": "in_progress", "place": "waiting_for_retry", "below": "pending", "error": "later", "finishes": (),
    }  # fmt: skip
    return Expected(**{**usual, **more})


def held(**more: Any) -> Expected:
    """The step runs, and whatever can run beside it has."""
    usual: dict[str, Any] = {"task": "in_progress", "place": "in_progress", "below": "pending", "finishes": ()}
    return Expected(**{**usual, **more})


def queued(**more: Any) -> Expected:
    """The step is on a queue that nobody has served."""
    return held(**{"place": "enqueued", "runs": 0, "attempts": 0, **more})


def cancelled(**more: Any) -> Expected:
    """Whatever had not ended is cancelled."""
    usual: dict[str, Any] = {
        "task": "cancelled",
        "place": "cancelled",
        "below": "cancelled",
        "finishes": ("cancelled",),
    }
    return Expected(**{**usual, **more})


def mended(**more: Any) -> Expected:
    """The task has failed once and completed then."""
    return Expected(**{"finishes": ("error", "complete"), **more})


def by_hand(**more: Any) -> Expected:
    """An operator gave the step's result."""
    return Expected(**{"place": "resolved_manually", **more})


# -- handlers that fail -----------------------------------------------------------------------------------------------


@kind("permanent error", refuse)
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed("card_unknown"))


@kind("retryable error, then success", fail(1), **MINUTE)
def _(bench: Bench) -> None:
    bench.run()
    bench.check(waits())
    bench.wait_and_run(61)
    bench.check_end(Expected(runs=2, attempts=2))


@kind("retryable errors until the attempts are spent", fail(9), **MINUTE)
def _(bench: Bench) -> None:
    bench.run()
    bench.wait_and_run(61)
    bench.check(waits(runs=2, attempts=2))
    bench.wait_and_run(61)
    bench.check_end(failed("later", runs=3, attempts=3))


@kind("retryable error of a step that may not run twice", fail(9), retryable=False)
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed("later"))


@kind("unexpected exception", divide_by_zero)
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed("ZeroDivisionError", runs=3, attempts=3))


@kind("the handler leaves the process", leave, max_attempts=1)
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed("SystemExit"))


@kind("the handler cancels itself", cancel_itself, max_attempts=1)
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed("CancelledError"))


@kind("no such handler", handler={"callable": "nowhere", "method": None, "initialization": {}}, max_attempts=1)
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed("HandlerNotFound", runs=0))


@kind("result that JSON cannot carry", answer({"value": float("nan")}))
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed("result_not_storable"))


@kind("result that is too large", answer({"text": "x" * 1_100_000}))
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed(TOO_LARGE))


@kind("result that does not fit its schema", answer({}), result_schema={"type": "object", "required": ["seen"]})
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed(MISMATCH))


@kind("timeout of a plain handler", spin, timeout_seconds=0.05, max_attempts=1)
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed("timeout"))


@kind("timeout of an async handler", sleep(9), timeout_seconds=0.05, max_attempts=2)
def _(bench: Bench) -> None:
    bench.run()
    bench.check_end(failed("timeout", runs=2, attempts=2))


@kind("timeout, then success", sleep(1), timeout_seconds=1, **MINUTE)
def _(bench: Bench) -> None:
    bench.run()
    bench.check(waits(error="timeout"))
    bench.wait_and_run(61)
    bench.check_end(Expected(runs=2, attempts=2))


# -- executors that end -----------------------------------------------------------------------------------------------


@kind("executor lost while it runs; it wakes up later", wait())
def _(bench: Bench) -> None:
    with bench.working(heartbeat_seconds=3600):
        bench.wait_until_held()
        bench.lose_executors()
        bench.check(queued(runs=1, losses=1))
        bench.run()
        bench.check(Expected(runs=2, losses=1))
        bench.gate.set()
        bench.wait_until_left()
    bench.check_end(Expected(runs=2, losses=1))


@kind("executor lost again and again", wait(2))
def _(bench: Bench) -> None:
    with bench.working(heartbeat_seconds=3600):
        bench.wait_until_held()
        bench.lose_executors()
        with bench.working(heartbeat_seconds=3600):
            wait_for(lambda: sum(bench.runs[case.task, case.place] for case in bench.cases) == 2 * len(bench.cases))
            bench.lose_executors(max_losses=2)
            bench.run()
            bench.check(failed("poison", runs=2, losses=2))
            bench.gate.set()
            bench.wait_until_left()
    bench.check_end(failed("poison", runs=2, losses=2))


@kind("executor lost with a step that may not run twice", wait(), retryable=False)
def _(bench: Bench) -> None:
    with bench.working(heartbeat_seconds=3600):
        bench.wait_until_held()
        bench.lose_executors()
        bench.gate.set()
        bench.wait_until_left()
    bench.run()
    bench.check_end(failed("outcome_unknown", losses=1))


@kind("executor told to stop", sleep(1))
def _(bench: Bench) -> None:
    with bench.working(grace_seconds=0.1):
        bench.wait_until_held()
    bench.check(queued(runs=1))
    bench.run()
    bench.check_end(Expected(runs=2))


@kind("executor told to stop, and the step is done in time", wait())
def _(bench: Bench) -> None:
    with bench.working():
        bench.wait_until_held()
        bench.gate.set()
    bench.run()
    bench.check_end(Expected())


@kind("executor told to stop with a step that may not run twice", sleep(1), retryable=False)
def _(bench: Bench) -> None:
    with bench.working(grace_seconds=0.1):
        bench.wait_until_held()
    bench.run()
    bench.check_end(failed("outcome_unknown"))


# -- cancelled --------------------------------------------------------------------------------------------------------


@kind("cancelled before anything ran")
def _(bench: Bench) -> None:
    bench.on_all(functions.cancel_tasks)
    bench.run()
    bench.check_end(cancelled(others="cancelled", runs=0, attempts=0))


@kind("cancelled before it runs", namespace=APART)
def _(bench: Bench) -> None:
    bench.run(apart=False)
    bench.check(queued())
    bench.on_all(functions.cancel_tasks)
    bench.run()
    bench.check_end(cancelled(runs=0, attempts=0))


@kind("cancelled while it runs", sleep(1))
def _(bench: Bench) -> None:
    with bench.working():
        bench.wait_until_held()
        bench.check(held())
        bench.on_all(functions.cancel_tasks)
        bench.wait_until_left()
    bench.run()
    bench.check_end(cancelled())


@kind("cancelled while it runs, and the handler answers all the same", wait())
def _(bench: Bench) -> None:
    with bench.working(heartbeat_seconds=3600):
        bench.wait_until_held()
        bench.on_all(functions.cancel_tasks)
        bench.gate.set()
        bench.wait_until_left()
    bench.run()
    bench.check_end(cancelled())


@kind("cancelled while it waits for its next attempt", fail(1), **MINUTE)
def _(bench: Bench) -> None:
    bench.run()
    bench.check(waits())
    bench.on_all(functions.cancel_tasks)
    bench.wait_and_run(61)
    bench.check_end(cancelled(error="later"))


@kind("cancelled once it has failed", refuse)
def _(bench: Bench) -> None:
    bench.run()
    bench.on_all(functions.cancel_tasks, changed=False)
    bench.check_end(failed("card_unknown"))


# -- paused -----------------------------------------------------------------------------------------------------------


def paused(expected: Expected, *, last: Expected) -> Callable[[Case], Expected]:
    """What is expected while paused, and where the step is the last one: that ends a task, paused or not."""
    return lambda case: last if case.is_last else expected


@kind("paused before it runs, and resumed", namespace=APART)
def _(bench: Bench) -> None:
    bench.run(apart=False)
    bench.on_all(functions.pause_tasks)
    bench.run()
    bench.check(queued(task="paused"))
    bench.on_all(functions.resume_tasks)
    bench.run()
    bench.check_end(Expected())


@kind("paused before anything ran, and resumed")
def _(bench: Bench) -> None:
    bench.on_all(functions.pause_tasks)
    bench.run()
    bench.on_all(functions.resume_tasks)
    bench.run()
    bench.check_end(Expected())


@kind("paused while it runs, and resumed when it is done", wait())
def _(bench: Bench) -> None:
    with bench.working():
        bench.wait_until_held()
        bench.on_all(functions.pause_tasks)
        bench.gate.set()
        bench.wait_until_settled()
    bench.run()
    bench.check(paused(Expected(task="paused", below="pending", below_ready="enqueued", finishes=()), last=Expected()))
    bench.on_all(functions.resume_tasks, changed=None)
    bench.run()
    bench.check_end(Expected())


@kind("paused and resumed while it runs", wait())
def _(bench: Bench) -> None:
    with bench.working():
        bench.wait_until_held()
        bench.on_all(functions.pause_tasks)
        bench.check(held(task="paused"))
        bench.on_all(functions.resume_tasks)
        bench.gate.set()
        bench.wait_until_settled()
    bench.run()
    bench.check_end(Expected())


@kind("paused while it runs, and it fails", wait(then=refuse))
def _(bench: Bench) -> None:
    with bench.working():
        bench.wait_until_held()
        bench.on_all(functions.pause_tasks)
        bench.gate.set()
        bench.wait_until_settled()
    bench.run()
    bench.on_all(functions.resume_tasks, changed=False)
    bench.check_end(failed("card_unknown"))


@kind("paused while it runs, its executor lost, and resumed", wait())
def _(bench: Bench) -> None:
    with bench.working(heartbeat_seconds=3600):
        bench.wait_until_held()
        bench.on_all(functions.pause_tasks)
        bench.lose_executors()
        bench.run()
        bench.check(queued(task="paused", runs=1, losses=1))
        bench.on_all(functions.resume_tasks)
        bench.run()
        bench.gate.set()
        bench.wait_until_left()
    bench.check_end(Expected(runs=2, losses=1))


@kind("paused while it runs, its executor told to stop, and resumed", sleep(1))
def _(bench: Bench) -> None:
    with bench.working(grace_seconds=0.1):
        bench.wait_until_held()
        bench.on_all(functions.pause_tasks)
    bench.run()
    bench.check(queued(task="paused", runs=1))
    bench.on_all(functions.resume_tasks)
    bench.run()
    bench.check_end(Expected(runs=2))


@kind("paused while it waits for its next attempt, and resumed", fail(1), **MINUTE)
def _(bench: Bench) -> None:
    bench.run()
    bench.on_all(functions.pause_tasks)
    bench.wait_and_run(61)
    bench.check(waits(task="paused"))
    bench.on_all(functions.resume_tasks)
    bench.run()
    bench.check_end(Expected(runs=2, attempts=2))


@kind("paused while it runs, and cancelled", sleep(1))
def _(bench: Bench) -> None:
    with bench.working():
        bench.wait_until_held()
        bench.on_all(functions.pause_tasks)
        bench.on_all(functions.cancel_tasks)
        bench.wait_until_left()
    bench.run()
    bench.check_end(cancelled())


# -- delegated --------------------------------------------------------------------------------------------------------


def celery_ids(bench: Bench) -> list[str]:
    return sorted(step.celery_id for step in bench.sent)


@kind("Celery task that never answers", **DELEGATED, max_attempts=1)
def _(bench: Bench) -> None:
    bench.run()
    bench.check(held())
    bench.wait_and_run(61)
    bench.check(failed("timeout"))
    assert sorted(bench.revoked) == celery_ids(bench)
    for step in bench.sent:
        bench.answer(step, status="complete", results={"late": True})
    bench.run()
    bench.check_end(failed("timeout"))


@kind("Celery task that answers the second time", **DELEGATED, max_attempts=2)
def _(bench: Bench) -> None:
    bench.run()
    first = list(bench.sent)
    bench.wait_and_run(61)
    bench.check(held(runs=2, attempts=2, error="timeout"))
    for step in first:
        bench.answer(step, status="complete", results={"late": True})
    bench.run()
    bench.check(held(runs=2, attempts=2, error="timeout"))
    for step in bench.sent[len(first) :]:
        bench.answer(step, status="complete", results=BY_HAND)
    bench.run()
    bench.check_end(Expected(runs=2, attempts=2, given=BY_HAND))


@kind("Celery task that answers once the same executor has sent it again", **DELEGATED, max_attempts=2)
def _(bench: Bench) -> None:
    number = len(bench.cases)
    with bench.working():
        wait_for(lambda: len(bench.sent) == number, "every task to be sent")
        bench.clock.advance(seconds=61)
        bench.run_orchestration()
        wait_for(lambda: len(bench.sent) == 2 * number, "every task to be sent again")
    assert {step.executor for step in bench.sent[:number]} == {step.executor for step in bench.sent[number:]}
    for step in bench.sent[:number]:
        bench.answer(step, status="complete", results={"late": True})
    bench.run()
    bench.check(held(runs=2, attempts=2, error="timeout"))
    for step in bench.sent[number:]:
        bench.answer(step, status="complete", results=BY_HAND)
    bench.run()
    bench.check_end(Expected(runs=2, attempts=2, given=BY_HAND))


@kind("Celery task that fails for good", **DELEGATED)
def _(bench: Bench) -> None:
    bench.run()
    for step in bench.sent:
        bench.answer(step, status="error", error={"message": "no", "type": "card_unknown", "retryable": False})
    bench.run()
    bench.check_end(failed("card_unknown"))


@kind("Celery task cancelled", **DELEGATED)
def _(bench: Bench) -> None:
    bench.run()
    bench.on_all(functions.cancel_tasks)
    bench.run()
    assert sorted(bench.revoked) == celery_ids(bench)
    for step in bench.sent:
        bench.answer(step, status="complete", results={"late": True})
    bench.run()
    bench.check_end(cancelled())


@kind("Celery task paused, and resumed when it has answered", **DELEGATED)
def _(bench: Bench) -> None:
    bench.run()
    bench.on_all(functions.pause_tasks)
    for step in bench.sent:
        bench.answer(step, status="complete", results=BY_HAND)
    bench.run()
    bench.check(
        paused(
            Expected(task="paused", below="pending", below_ready="enqueued", finishes=(), given=BY_HAND),
            last=Expected(given=BY_HAND),
        )
    )
    bench.on_all(functions.resume_tasks, changed=None)
    bench.run()
    bench.check_end(Expected(given=BY_HAND))


# -- the operator -----------------------------------------------------------------------------------------------------


def retry_all(bench: Bench) -> None:
    for case in bench.cases:
        answer = bench.call(functions.retry_task({"task_uuid": case.task, "by": "operator", "reason": "test"}))
        assert (answer["state"], answer["retried"]) == ("in_progress", 1)


@kind("task retried by an operator once the attempts are spent", fail(3))
def _(bench: Bench) -> None:
    bench.run()
    bench.check(failed("later", runs=3, attempts=3))
    retry_all(bench)
    bench.run()
    bench.check_end(mended(runs=4, dead_letters=(("later", "retried"),)))


@kind("task retried by an operator, and it fails again", fail(9), max_attempts=1)
def _(bench: Bench) -> None:
    bench.run()
    retry_all(bench)
    bench.run()
    letters = (("later", "retried"), ("later", None))
    bench.check_end(failed("later", runs=2, dead_letters=letters, finishes=("error", "error")))


@kind("step reset by an operator once it has failed", fail(1), max_attempts=1)
def _(bench: Bench) -> None:
    bench.run()
    bench.on_each(functions.reset_step)
    bench.run()
    bench.check_end(mended(runs=2, dead_letters=(("later", "reset"),)))


@kind("step reset by an operator while it waits for its next attempt", fail(1), **MINUTE)
def _(bench: Bench) -> None:
    bench.run()
    bench.on_each(functions.reset_step)
    bench.run()
    bench.check_end(Expected(runs=2))


@kind("step reset by an operator while it runs", wait())
def _(bench: Bench) -> None:
    with bench.working(heartbeat_seconds=3600):
        bench.wait_until_held()
        bench.on_each(functions.reset_step)
        bench.run()
        bench.gate.set()
        bench.wait_until_left()
    bench.check_end(Expected(runs=2))


@kind("step resolved by an operator before anything ran")
def _(bench: Bench) -> None:
    bench.on_each(functions.resolve_step, results=BY_HAND)
    bench.run()
    bench.check_end(by_hand(runs=0, attempts=0))


@kind("step resolved by an operator before it runs", namespace=APART)
def _(bench: Bench) -> None:
    bench.run(apart=False)
    bench.on_each(functions.resolve_step, results=BY_HAND)
    bench.run()
    bench.check_end(by_hand(runs=0, attempts=0))


@kind("step resolved by an operator while it runs", wait())
def _(bench: Bench) -> None:
    with bench.working(heartbeat_seconds=3600):
        bench.wait_until_held()
        bench.on_each(functions.resolve_step, results=BY_HAND)
        bench.gate.set()
        bench.wait_until_left()
    bench.run()
    bench.check_end(by_hand())


@kind("step resolved by an operator while it waits for its next attempt", fail(1), **MINUTE)
def _(bench: Bench) -> None:
    bench.run()
    bench.on_each(functions.resolve_step, results=BY_HAND)
    bench.wait_and_run(61)
    bench.check_end(by_hand(error="later"))


@kind("step resolved by an operator once it has failed", refuse)
def _(bench: Bench) -> None:
    bench.run()
    bench.on_each(functions.resolve_step, results=BY_HAND)
    bench.run()
    letters = (("card_unknown", "resolved"),)
    bench.check_end(by_hand(error="card_unknown", dead_letters=letters, finishes=("error", "complete")))


@kind("task resolved by an operator once a step has failed", refuse)
def _(bench: Bench) -> None:
    bench.run()
    for case in bench.cases:
        bench.call(functions.resolve_task({"task_uuid": case.task, "by": "operator", "reason": "test"}))
    bench.run()
    letters = (("card_unknown", "resolved"),)
    finishes = ("error", "resolved_manually")
    bench.check_end(
        failed("card_unknown", task="resolved_manually", below="cancelled", dead_letters=letters, finishes=finishes)
    )


@kind("task resolved by an operator while the step runs", sleep(1))
def _(bench: Bench) -> None:
    with bench.working():
        bench.wait_until_held()
        for case in bench.cases:
            bench.call(functions.resolve_task({"task_uuid": case.task, "by": "operator", "reason": "test"}))
        bench.wait_until_left()
    bench.run()
    bench.check_end(cancelled(task="resolved_manually", finishes=("resolved_manually",)))
