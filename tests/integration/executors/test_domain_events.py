"""Domain events of real executors: payloads that fit, publishers, fast delivery, hooks of tasks, consumers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tasker import DomainEvent, Event, EventDraft, Retry, StepContext, Tasker, TaskOutcome, subscribe, workflow
from tasker.config.sections import DatabaseSettings, EngineSettings, PgmqSettings
from tasker.config.settings import Settings
from tasker.core import OrchestrationCore
from tasker.errors import InvalidRequest, NotFound
from tasker.executors.executor import ExecutorKind
from tasker.executors.stop import StopSignal
from tasker.handlers import events as registered
from tasker.workflows.declaration import Workflow
from tasker.workflows.loading import load_template
from tests.integration.executors.engine import Engine
from tests.waiting import wait_until

pytestmark = pytest.mark.orchestration

NAMESPACE = "testing"
QUEUE = "testing_domain_events"
PAID = {"type": "object", "required": ["total"], "properties": {"total": {"type": "integer"}}}


@pytest.fixture
def core(engine: Engine) -> Iterator[OrchestrationCore]:
    settings = Settings(
        database=DatabaseSettings(url=engine.database.url), engine=EngineSettings(handler_modules=(__name__,))
    )
    with OrchestrationCore.from_settings(settings) as core:
        yield core


@pytest.fixture
def heard() -> Iterator[list[DomainEvent]]:
    """What subscribers of this process were told; who subscribed in a test is forgotten after it."""
    before = dict(registered._subscribers)
    told: list[DomainEvent] = []
    subscribe("heard.*")(told.append)
    yield told
    registered._subscribers.clear()
    registered._subscribers.update(before)
    registered._found.clear()


@pytest.fixture
def client(engine: Engine) -> Iterator[Tasker]:
    settings = Settings(database=DatabaseSettings(url=engine.database.url), pgmq=PgmqSettings(max_receive_count=2))
    with Tasker(settings=settings) as client:
        yield client


def orders(**options: Any) -> Workflow:
    return workflow(NAMESPACE, "order", version="1.0.0", **options)


def run(core: OrchestrationCore, declared: Any, context: Any = None, tasks: int = 1) -> dict[str, dict[str, int]]:
    """Register the workflow, run tasks of it to their end; the counters of the executors."""
    core.templates.register(declared)
    with Tasker(core.database) as client:
        for _ in range(tasks):
            client.create(NAMESPACE, "order", context, correlation_id="c-1")
    stop = StopSignal()
    with core.build_loop(list(ExecutorKind), ["testing_queue"], stop=stop, worker="test") as loop:
        counters = loop.run_until_idle(20).counters
    stop.close()
    return counters


def stored(engine: Engine) -> dict[str, Any]:
    """Name and payload of what is in the queue."""
    rows = engine.rows(f"SELECT message->>'name', message->'payload' FROM pgmq.q_{QUEUE} ORDER BY msg_id")
    return dict(rows)


def letters(engine: Engine) -> dict[str, tuple[Any, ...]]:
    """Reason, what is wrong and payload of dead letters, by the event's name."""
    rows = engine.rows(
        "SELECT snapshot #>> '{message,name}', reason, snapshot->>'why', snapshot #> '{message,payload}'"
        " FROM tasker.dead_letters WHERE kind = 'message'"
    )
    return {row[0]: row[1:] for row in rows}


# -- payloads -------------------------------------------------------------------------------------------------------


def doubled(draft: EventDraft) -> Any:
    return {"total": draft.payload["total"] * 2, "of": draft.context["order"], "by": draft.step}


def broken(draft: EventDraft) -> Any:
    raise LookupError("no such price")


async def slow(draft: EventDraft) -> Any:
    return 1


def nothing_json(draft: EventDraft) -> Any:
    return object()


def test_publishers_shape_payloads_and_schemas_guard_them(
    engine: Engine, core: OrchestrationCore, client: Tasker
) -> None:
    made = orders()

    @made.step(
        publishes=[
            "plain",
            Event(name="fits", schema=PAID),
            Event(name="wrong", schema={"type": "array"}),
            Event(name="doubled", publisher=doubled, schema=PAID),
            Event(name="broken", publisher=broken),
            Event(name="slow", publisher=slow),
            Event(name="no_json", publisher=nothing_json),
            Event(name="gone", publisher="elsewhere.module:function"),
            Event(name="other", condition="failure", publisher=broken),
        ]
    )
    def pay(ctx: StepContext) -> dict[str, int]:
        return {"total": 3}

    counters = run(core, made, {"order": 7})
    assert stored(engine) == {
        "plain": {"total": 3},
        "fits": {"total": 3},
        "doubled": {"total": 6, "of": 7, "by": "pay"},
    }
    found = letters(engine)
    assert {name: letter[0] for name, letter in found.items()} == {
        "wrong": "event_not_valid",
        "broken": "event_publisher_failed",
        "slow": "event_publisher_failed",
        "no_json": "event_publisher_failed",
        "gone": "event_publisher_failed",
    }
    assert "no such price" in found["broken"][1]
    assert all(letter[2] == {"total": 3} for letter in found.values())
    assert engine.task_states() == {"complete": 1}
    assert counters["step_executor"]["events_published_total|testing"] == 3
    # With a mended message it is sent after all.
    letter = next(letter for letter in client.dead_letters(failure="event_not_valid").letters)
    client.retry_dead_letters([letter.id], message={**letter.snapshot["message"], "payload": [3]})
    assert stored(engine)["wrong"] == [3]


def test_async_steps_and_failures_have_publishers_too(engine: Engine, core: OrchestrationCore) -> None:
    made = orders()

    def told(draft: EventDraft) -> Any:
        return [draft.condition, draft.payload["type"], draft.payload["attempt"]]

    failures = ("failure", "retryable_failure", "permanent_failure")

    @made.step(
        retry=Retry(max_attempts=2, backoff="none"),
        publishes=[Event(name=kind, condition=kind, publisher=told) for kind in failures],
    )
    async def pay(ctx: StepContext) -> None:
        raise ValueError("declined")

    run(core, made)
    rows = engine.rows(f"SELECT message->>'name', message->'payload' FROM pgmq.q_{QUEUE} ORDER BY msg_id")
    assert rows == [
        ("failure", ["retryable_failure", "ValueError", 1]),
        ("retryable_failure", ["retryable_failure", "ValueError", 1]),
        ("failure", ["permanent_failure", "ValueError", 2]),
        ("permanent_failure", ["permanent_failure", "ValueError", 2]),
    ]


# -- fast delivery --------------------------------------------------------------------------------------------------


def test_fast_events_reach_subscribers_and_are_those_that_are_stored(
    engine: Engine, core: OrchestrationCore, heard: list[DomainEvent]
) -> None:
    awaited: list[str] = []

    @subscribe("heard.fast", "*.both")
    async def later(event: DomainEvent) -> None:
        awaited.append(event.name)

    @subscribe("*")
    def fails(event: DomainEvent) -> None:
        raise RuntimeError("nobody is hurt")

    made = orders()
    fast = [
        Event(name="heard.fast", delivery="fast"),
        Event(name="heard.both", delivery="broadcast", schema=PAID),
        Event(name="heard.wrong", delivery="fast", schema={"type": "array"}),
        Event(name="other.fast", delivery="fast"),
    ]

    @made.step(publishes=fast)
    def pay(ctx: StepContext) -> dict[str, int]:
        return {"total": 3}

    run(core, made)
    assert [(event.name, event.payload) for event in heard] == [
        ("heard.fast", {"total": 3}),
        ("heard.both", {"total": 3}),
    ]
    assert awaited == ["heard.fast", "heard.both"]
    assert stored(engine) == {"heard.both": {"total": 3}}
    (message,) = [row[0] for row in engine.rows(f"SELECT message FROM pgmq.q_{QUEUE}")]
    told, kept = heard[1], DomainEvent.from_json(message)
    assert (told.event_id, told.task_uuid, told.step, told.attempt) == (kept.event_id, kept.task_uuid, "pay", 1)
    assert (told.correlation_id, told.condition) == ("c-1", "success")
    assert letters(engine) == {}
    assert engine.task_states() == {"complete": 1}


def test_a_subscriber_that_never_returns_holds_up_no_step(
    engine: Engine, core: OrchestrationCore, heard: list[DomainEvent]
) -> None:
    leave = threading.Event()

    @subscribe("heard.*")
    def stuck(event: DomainEvent) -> None:
        leave.wait(30)

    made = orders()

    @made.step(publishes=[Event(name="heard.fast", delivery="fast")])
    def pay(ctx: StepContext) -> int:
        return 1

    run(core, made, tasks=20)
    assert engine.task_states() == {"complete": 20}
    leave.set()


# -- tasks ----------------------------------------------------------------------------------------------------------


def summary(draft: EventDraft) -> Any:
    assert draft.outcome is not None
    return {"results": dict(draft.outcome.results), "order": draft.context["order"], **draft.payload}


def test_a_task_tells_of_its_end_what_its_publisher_makes_of_it(
    engine: Engine, core: OrchestrationCore, heard: list[DomainEvent]
) -> None:
    made = orders(
        publishes=[
            "order.done",
            Event(name="heard.done", delivery="broadcast", publisher=summary),
            Event(name="wrong", schema={"type": "array"}),
            Event(name="order.failed", condition="failure"),
        ]
    )

    @made.step
    def pay(ctx: StepContext) -> int:
        return 3

    counters = run(core, made, {"order": 7})
    counts = {"state": "complete", "steps": 1, "open": 0, "failed": 0, "skipped": 0}
    told = {"results": {"pay": 3}, "order": 7, **counts}
    assert stored(engine) == {"order.done": counts, "heard.done": told}
    assert letters(engine)["wrong"][0] == "event_not_valid"
    assert [(event.payload, event.finish_no, event.step) for event in heard] == [(told, 1, None)]
    (message,) = [
        row[0] for row in engine.rows(f"SELECT message FROM pgmq.q_{QUEUE} WHERE message->>'name' = 'heard.done'")
    ]
    assert heard[0].event_id == message["event_id"]
    assert counters["task_finalizer"]["events_published_total|testing"] == 2


seen: list[tuple[str, TaskOutcome]] = []


class OrderHandler:
    """The hook object of a whole task."""

    async def on_complete(self, outcome: TaskOutcome) -> None:
        seen.append(("complete", outcome))

    def on_error(self, outcome: TaskOutcome) -> None:
        seen.append(("error", outcome))


def succeed(ctx: StepContext) -> int:
    return 1


def fail(ctx: StepContext) -> int:
    raise ValueError


TEMPLATE = """
name: order
namespace_name: testing
version: 1.0.0
task_handler: {callable: "%(module)s:%(handler)s", initialization: {to: ann, key: "${EVENTS_TEST:-none}"}}
steps:
  - {name: pay, handler: {callable: "%(module)s:%(step)s"}, retry: {max_attempts: 1}}
"""


@pytest.mark.parametrize(("step", "kind"), [("succeed", "complete"), ("fail", "error")])
def test_the_task_handler_is_told_how_a_task_ended(
    engine: Engine, core: OrchestrationCore, step: str, kind: str
) -> None:
    seen.clear()
    run(core, load_template(TEMPLATE % {"module": __name__, "handler": "OrderHandler", "step": step}))
    ((called, outcome),) = seen
    assert (called, outcome.state, dict(outcome.settings)) == (kind, kind, {"to": "ann", "key": "none"})
    assert engine.value("SELECT count(*) FROM tasker.tasks WHERE finalized_at IS NOT NULL") == 1


def test_a_task_handler_of_another_language_is_nobody_whom_a_task_waits_for(
    engine: Engine, core: OrchestrationCore
) -> None:
    text = TEMPLATE.replace("%(module)s:%(handler)s", "Shop::OrderHandler") % {"module": __name__, "step": "succeed"}
    run(core, load_template(text))
    assert engine.value("SELECT count(*) FROM tasker.tasks WHERE finalized_at IS NOT NULL") == 1


# -- by message -----------------------------------------------------------------------------------------------------


def test_outcomes_that_come_by_message_are_told_of_as_well(
    engine: Engine, core: OrchestrationCore, heard: list[DomainEvent]
) -> None:
    made = orders()
    listed = [
        Event(name="heard.shaped", delivery="broadcast", publisher=in_a_list),
        Event(name="checked", schema=PAID),
        Event(name="given", schema=PAID, publisher=broken),
    ]

    @made.step(publishes=listed)
    def pay(ctx: StepContext) -> dict[str, int]:
        raise AssertionError("it is run elsewhere")

    core.templates.register(made)
    engine.connection.execute("UPDATE tasker.named_steps SET expected_ms = 1")
    with Tasker(core.database) as client:
        client.create(NAMESPACE, "order")
    elsewhere = engine.executor(queues=("testing_queue",))
    elsewhere.start()
    claimed = engine.value(
        "SELECT tasker.claim_steps(jsonb_build_object('executor', %s::text, 'call_no', 1,"
        " 'queues', '[\"testing_queue\"]'::jsonb, 'limit', 1, 'budget_ms', 50))",
        elsewhere.incarnation.executor,
    )
    (step,) = claimed["steps"]
    keys = ("task_uuid", "step_uuid", "position", "map_index", "fence")
    outcome = {
        **{key: step[key] for key in keys},
        "executor": elsewhere.incarnation.executor,
        "status": "complete",
        "results": {"sum": 1},
        "events": {"given": {"total": 9}},
    }
    for _ in range(2):
        engine.connection.execute("SELECT pgmq.send('orchestration_step_results', %s)", (Jsonb(outcome),))
        stop = StopSignal()
        with core.build_loop([ExecutorKind.STEP_RESULT_PROCESSOR], stop=stop, worker="test") as loop:
            loop.run_until_idle(20)
        stop.close()
    assert stored(engine) == {"heard.shaped": [{"sum": 1}], "given": {"total": 9}}
    assert letters(engine)["checked"][0] == "event_not_valid"
    assert [(event.name, event.payload) for event in heard] == [("heard.shaped", [{"sum": 1}])]


def in_a_list(draft: EventDraft) -> Any:
    return [draft.payload]


# -- consumers ------------------------------------------------------------------------------------------------------


def filled(core: OrchestrationCore, tasks: int) -> None:
    made = orders()

    @made.step(publishes=["order.paid", "stock.taken"])
    def pay(ctx: StepContext) -> int:
        return 1

    run(core, made, tasks=tasks)


def test_a_consumer_handles_what_it_wants_and_leaves_the_rest(
    engine: Engine, core: OrchestrationCore, client: Tasker
) -> None:
    filled(core, 30)
    got: list[DomainEvent] = []
    assert client.consume_events(NAMESPACE, "order.*", got.append, batch_size=7, until_empty=True) == 30
    assert {event.name for event in got} == {"order.paid"}
    assert len({event.event_id for event in got}) == 30
    assert set(stored(engine)) == {"stock.taken"}
    assert engine.value(f"SELECT count(*) FROM pgmq.q_{QUEUE} WHERE read_ct = 0") == 30
    assert [event.name for event in client.tail_events(NAMESPACE, from_start=True, follow=False)] == [
        "stock.taken"
    ] * 30
    assert list(client.tail_events(NAMESPACE, "order.*", from_start=True, follow=False)) == []


def test_an_event_whose_handler_keeps_failing_ends_as_a_dead_letter(
    engine: Engine, core: OrchestrationCore, client: Tasker
) -> None:
    filled(core, 1)
    calls: list[str] = []

    def handler(event: DomainEvent) -> None:
        calls.append(event.name)
        if event.name == "order.paid":
            raise RuntimeError("mail server away")

    assert client.consume_events(NAMESPACE, "*", handler, until_empty=True) == 1
    assert calls == ["order.paid", "stock.taken"]
    assert client.consume_events(NAMESPACE, "*", handler, until_empty=True) == 0
    assert len(calls) == 2
    engine.connection.execute(f"UPDATE pgmq.q_{QUEUE} SET vt = clock_timestamp()".encode())
    assert client.consume_events(NAMESPACE, "*", handler, until_empty=True) == 0
    (letter,) = client.dead_letters().letters
    assert (letter.reason, letter.queue) == ("event_not_handled", QUEUE)
    assert "mail server away" in letter.snapshot["why"]
    client.retry_dead_letters([letter.id])
    assert client.consume_events(NAMESPACE, "*", lambda event: None, until_empty=True) == 1


def test_a_consumer_that_is_told_to_stop_gives_back_what_it_has_not_begun(
    engine: Engine, core: OrchestrationCore, client: Tasker
) -> None:
    filled(core, 5)
    stop = threading.Event()
    assert client.consume_events(NAMESPACE, "*", lambda event: stop.set(), stop=stop) == 1
    assert engine.value(f"SELECT count(*) FROM pgmq.q_{QUEUE} WHERE read_ct = 0 AND vt <= clock_timestamp()") == 9

    # And one that is killed in the middle.
    def interrupt(event: DomainEvent) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.consume_events(NAMESPACE, "*", interrupt)
    assert engine.value(f"SELECT count(*) FROM pgmq.q_{QUEUE} WHERE vt <= clock_timestamp()") == 8
    assert engine.value(f"SELECT count(*) FROM pgmq.q_{QUEUE}") == 9


def test_two_consumers_share_the_events_and_wait_for_more(
    engine: Engine, core: OrchestrationCore, client: Tasker
) -> None:
    filled(core, 1)
    stop, got, lock = threading.Event(), [], threading.Lock()

    def handler(event: DomainEvent) -> None:
        with lock:
            got.append(event.event_id)

    def consume() -> None:
        client.consume_events(NAMESPACE, "*", handler, batch_size=3, stop=stop)

    threads = [threading.Thread(target=consume) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(got) == 2, "what was there")
    filled(core, 10)
    wait_until(lambda: len(got) == 22, "what came later")
    stop.set()
    for thread in threads:
        thread.join()
    assert len(set(got)) == 22
    assert engine.value(f"SELECT count(*) FROM pgmq.q_{QUEUE}") == 0


def test_a_consumer_survives_the_end_of_its_connection(engine: Engine, core: OrchestrationCore, client: Tasker) -> None:
    filled(core, 2)
    ended: list[Any] = []

    def handler(event: DomainEvent) -> None:
        if not ended:
            ended.append(
                engine.value(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE application_name = 'tasker client' AND datname = current_database()"
                )
            )

    # What was read and not settled shows again when its time is over: shortly.
    assert client.consume_events(NAMESPACE, "*", handler, visibility_timeout_seconds=1, until_empty=True) >= 0
    wait_until(
        lambda: (
            client.consume_events(NAMESPACE, "*", handler, until_empty=True) >= 0
            and engine.value(f"SELECT count(*) FROM pgmq.q_{QUEUE}") == 0
        ),
        "all of them handled",
    )
    assert ended


def test_an_event_is_not_handled_by_what_nobody_awaits(engine: Engine, core: OrchestrationCore, client: Tasker) -> None:
    filled(core, 1)

    async def later(event: DomainEvent) -> None: ...

    for handler in (later, None):
        with pytest.raises(InvalidRequest) as caught:
            client.consume_events(NAMESPACE, "*", handler, until_empty=True)  # type: ignore[arg-type]
        assert caught.value.field == "handler"
    assert client.consume_events(NAMESPACE, "*", lambda event: later(event), until_empty=True) == 0
    assert engine.value(f"SELECT count(*) FROM pgmq.q_{QUEUE}") == 2


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"pattern": ""}, "pattern"),
        ({"batch_size": 0}, "batch_size"),
        ({"visibility_timeout_seconds": 0.5}, "visibility_timeout_seconds"),
    ],
)
def test_what_a_consumer_cannot_mean_is_refused(client: Tasker, arguments: dict[str, Any], field: str) -> None:
    pattern = arguments.pop("pattern", "*")
    with pytest.raises(InvalidRequest) as caught:
        client.consume_events(NAMESPACE, pattern, print, **arguments)
    assert caught.value.field == field
    with pytest.raises(NotFound):
        client.consume_events("nobody", "*", print)
