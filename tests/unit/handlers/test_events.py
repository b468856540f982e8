"""Subscribers of domain events: which events they get, and that nobody waits for them."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tasker.config.settings import Settings
from tasker.handlers import events
from tasker.handlers.events import DomainEvent, EventDraft, compile_pattern, subscribe, subscribers_of
from tasker.handlers.registry import HandlerRegistry
from tasker.hooks import events as hooks
from tasker.hooks.events import EventMaker, FastEvents, condition_of, condition_of_task, event_id
from tasker.workflows.events import calls_for
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_subscribers", {})
    monkeypatch.setattr(events, "_found", {})


def event(name: str = "order.paid") -> DomainEvent:
    return DomainEvent(
        event_id="e", name=name, payload={"n": 1}, namespace="shop", task="order", task_version="1.0.0", step="pay",
        task_uuid="t", step_uuid="s", fence=1, attempt=1, finish_no=None, state="complete", condition="success",
        correlation_id=None, at=dt.datetime(2026, 7, 1, 12, 30, tzinfo=dt.UTC),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("*", ["a", "a.b", ""], []),
        ("order.*", ["order.paid", "order.", "order.a.b"], ["order", "reorder.paid", "orderXpaid"]),
        ("*.paid", ["order.paid", ".paid"], ["paid", "order.paid.late"]),
        ("a?[b]", ["a?[b]"], ["ab", "axb"]),
    ],
)
def test_a_pattern_knows_stars_only(pattern: str, matches: list[str], others: list[str]) -> None:
    compiled = compile_pattern(pattern)
    assert [name for name in (*matches, *others) if compiled.fullmatch(name)] == matches


@pytest.mark.parametrize("patterns", [(), ("",), ("x" * 501,)])
def test_a_subscriber_says_what_it_wants(patterns: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"pattern|events are meant"):
        subscribe(*patterns)


def test_each_subscriber_is_called_once_and_a_module_that_is_imported_again_replaces_its_own() -> None:
    def declare() -> Any:
        @subscribe("order.*", "*.paid")
        def told(event: DomainEvent) -> None: ...

        return told

    declare()
    latest = declare()
    assert subscribers_of("order.paid") == (latest,)
    assert subscribers_of("stock.taken") == ()


def test_an_event_is_the_same_after_it_travelled() -> None:
    assert DomainEvent.from_json({**event().to_json(), "added_later": 1}) == event()
    for message in ({}, {**event().to_json(), "at": "yesterday"}, {**event().to_json(), "at": None}):
        with pytest.raises(ValueError, match="no domain event"):
            DomainEvent.from_json(message)


@pytest.mark.parametrize(
    ("declared", "told_of"),
    [
        ("success", {"success"}),
        ("failure", {"retryable_failure", "permanent_failure"}),
        ("retryable_failure", {"retryable_failure"}),
        ("permanent_failure", {"permanent_failure"}),
        ("always", {"success", "retryable_failure", "permanent_failure", "cancelled"}),
    ],
)
def test_conditions(declared: str, told_of: set[str]) -> None:
    happened = ("success", "retryable_failure", "permanent_failure", "cancelled")
    assert {each for each in happened if calls_for(declared, each)} == told_of


def test_what_a_state_means() -> None:
    assert condition_of("resolved_manually") == condition_of("complete") == "success"
    assert condition_of_task("resolved_manually") == "resolved_manually"
    assert condition_of_task("error") == "permanent_failure"
    assert condition_of_task("cancelled") == "cancelled"


def test_the_id_of_an_event_is_that_which_the_database_gives_it() -> None:
    # SELECT md5('00000000-0000-7000-8000-000000000001:3:größer')::uuid
    assert event_id("00000000-0000-7000-8000-000000000001", 3, "größer") == "91e59861-10b2-390b-5776-7e7af31893a4"


# -- publishers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [ValueError("boom"), SystemExit("boom"), asyncio.CancelledError("boom")])
def test_a_publisher_ends_its_own_event_and_nothing_else(failure: BaseException) -> None:
    def publish(draft: EventDraft) -> None:
        raise failure

    handlers = HandlerRegistry(Settings())
    handlers.find_object = lambda name: publish  # type: ignore[method-assign]
    draft = EventDraft(
        name="", condition="success", namespace="shop", task="order", task_version="1.0.0", step="pay",
        task_uuid="t", step_uuid="s", payload={"n": 1},
    )  # fmt: skip
    declared = {"name": "order.paid", "condition": "success", "publisher": "shop:publish", "schema": None}
    made = EventMaker(handlers, 1000).prepare([declared], draft)
    why = f"{type(failure).__name__}: boom"
    assert made.to_json() == {
        "rejected_events": {"order.paid": {"reason": "event_publisher_failed", "message": why, "payload": {"n": 1}}}
    }


# -- the thread -----------------------------------------------------------------------------------------------------


class Delivery(FastEvents):
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        super().__init__(HandlerRegistry(Settings()), lambda **counts: self.counts.update(counts))


@pytest.fixture
def delivery() -> Iterator[Delivery]:
    made = Delivery()
    yield made
    made.close()


def test_events_are_handed_over_in_their_order_and_failures_are_counted(delivery: Delivery) -> None:
    got: list[str] = []

    @subscribe("*")
    def told(event: DomainEvent) -> None:
        got.append(event.name)
        if event.name == "b":
            raise RuntimeError("boom")

    for name in "abc":
        delivery.put(event(name))
    wait_until(lambda: len(got) == 3, "all of them")
    delivery.close()
    assert got == ["a", "b", "c"]
    assert delivery.counts == {"fast_events_delivered": 2, "fast_events_failed": 1}


@pytest.mark.parametrize("failure", [SystemExit(1), asyncio.CancelledError()])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_subscriber_that_gives_up_for_itself_ends_nobody_elses_events(
    delivery: Delivery, failure: BaseException, is_async: bool
) -> None:
    got: list[str] = []

    def told(event: DomainEvent) -> None:
        got.append(event.name)
        if event.name == "a":
            raise failure

    async def told_later(event: DomainEvent) -> None:
        told(event)

    subscribe("*")(told_later if is_async else told)
    delivery.put(event("a"))
    delivery.put(event("b"))
    wait_until(lambda: len(got) == 2, "both of them")
    delivery.close()
    assert delivery.counts == {"fast_events_delivered": 1, "fast_events_failed": 1}


def test_more_events_than_can_wait_are_dropped_and_nobody_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "MAX_WAITING", 3)
    monkeypatch.setattr(hooks, "CLOSE_SECONDS", 0.01)
    delivery = Delivery()
    entered, leave = threading.Event(), threading.Event()

    @subscribe("*")
    def stuck(event: DomainEvent) -> None:
        entered.set()
        leave.wait(30)

    delivery.put(event())
    entered.wait(30)
    for _ in range(10):
        delivery.put(event())
    assert delivery.counts["fast_events_dropped"] == 7
    delivery.close()
    leave.set()
    # Whatever it still delivers goes to the subscribers of the moment, which may be those of another test.
    wait_until(lambda: delivery.counts.get("fast_events_delivered") == 4, "the thread to hand over the rest")


def test_closing_hands_over_what_waits(delivery: Delivery) -> None:
    got: list[str] = []
    subscribe("*")(lambda event: got.append(event.name))
    for n in range(50):
        delivery.put(event(str(n)))
    delivery.close()
    assert len(got) == 50
    delivery.put(event("late"))
    assert len(got) == 50
