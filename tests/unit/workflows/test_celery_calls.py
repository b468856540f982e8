from __future__ import annotations

from typing import Any

import pytest

from tasker.errors import PermanentError
from tasker.workflows.celery_calls import OPTIONS, CeleryCall, build_call, check_call

CONTEXT = {"order_id": 42, "customer": {"name": "Ann", "mail/work": "ann@example.com"}}
RESULTS = {"charge": {"id": "c-1", "lines": [{"sku": "A"}, {"sku": "B"}]}}


def test_without_arguments_the_task_gets_context_and_results() -> None:
    assert build_call({"queue": "mail"}, CONTEXT, RESULTS) == CeleryCall(
        [], {"context": CONTEXT, "results": RESULTS}, {"queue": "mail"}
    )


def test_references_are_replaced_by_what_they_point_to() -> None:
    call = build_call(
        {
            "args": [{"$result": "charge", "pointer": "/id"}, 1, {"$context": ""}],
            "kwargs": {
                "sku": {"$result": "charge", "pointer": "/lines/1/sku"},
                "all": {"$result": "charge"},
                "to": {"address": {"$context": "/customer/mail~1work"}},
            },
        },
        CONTEXT,
        RESULTS,
    )
    assert call.args == ["c-1", 1, CONTEXT]
    assert call.kwargs == {"sku": "B", "all": RESULTS["charge"], "to": {"address": "ann@example.com"}}
    assert call.options == {}


@pytest.mark.parametrize("pointer", ["/nothing", "/lines/2", "/lines/x", "/id/deeper"])
def test_a_reference_that_leads_nowhere_is_a_permanent_error(pointer: str) -> None:
    with pytest.raises(PermanentError, match="the result of step 'charge' has nothing at") as caught:
        build_call({"args": [{"$result": "charge", "pointer": pointer}]}, CONTEXT, RESULTS)
    assert caught.value.code == "bad_reference"


@pytest.mark.parametrize(
    ("initialization", "place", "message"),
    [
        ({"arg": []}, ("arg",), "unknown field of a Celery task's call, did you mean 'args'?"),
        ({"args": {}}, ("args",), "must be a list"),
        ({"kwargs": []}, ("kwargs",), "must be a mapping"),
        ({"queue": ""}, ("queue",), "must be the name of a Celery queue"),
        ({"exchange": "cards"}, ("exchange",), "needs a routing_key"),
        ({"routing_key": 7}, ("routing_key",), "must be a routing key"),
        ({"priority": 256}, ("priority",), "must be a whole number from 0 to 255"),
        ({"priority": True}, ("priority",), "must be a whole number from 0 to 255"),
        ({"expires": "10"}, ("expires",), "must be a number of seconds above 0"),
        ({"countdown": 60, "expires": 60}, ("countdown",), "must be below expires (60 s): the task would never begin"),
        ({"countdown": 120}, ("countdown",), "must be below the step's timeout_seconds (100 s)"),
        ({"time_limit": 9, "soft_time_limit": 9.5}, ("soft_time_limit",), "must be below time_limit (9 s)"),
        ({"ignore_result": "no"}, ("ignore_result",), "must be true or false"),
        ({"serializer": "xml"}, ("serializer",), "must be json, msgpack, pickle or yaml"),
        ({"terminate": 1}, ("terminate",), "must be true or false"),
        ({"eta": "2030-01-01"}, ("eta",), "unknown field of a Celery task's call"),
        ({"args": [{"$result": "chrge"}]}, ("args", 0), "did you mean 'charge'?"),
        ({"args": [{"$result": "charge", "pointer": "id"}]}, ("args", 0), "begins with a slash, not 'id'"),
        ({"args": [{"$result": "charge", "at": "/id"}]}, ("args", 0), "has $result and pointer, and nothing else"),
        ({"kwargs": {"a": [{"$context": 1}]}}, ("kwargs", "a", 0), "begins with a slash, not 1"),
        ({"kwargs": {"a": {"$context": "/a", "b": 1}}}, ("kwargs", "a"), "has $context and nothing else"),
    ],
)
def test_a_call_that_cannot_be_made_is_refused_in_the_template(
    initialization: dict[str, Any], place: tuple[str | int, ...], message: str
) -> None:
    ((path, said),) = check_call(initialization, ["charge"], 100)
    assert path == place
    assert message in said


def test_options_are_passed_on_as_they_are() -> None:
    options = {
        "queue": "cards",
        "exchange": "shop",
        "routing_key": "cards.new",
        "priority": 0,
        "expires": 30,
        "countdown": 1.5,
        "time_limit": 20,
        "soft_time_limit": 15,
        "ignore_result": True,
        "serializer": "json",
        "terminate": False,
    }
    assert sorted(options) == sorted(OPTIONS)
    assert list(check_call(options, [], 60)) == []
    assert build_call({**options, "args": []}, CONTEXT, RESULTS) == CeleryCall([], {}, options)


def test_all_that_is_wrong_is_told_at_once() -> None:
    wrong = {"priority": -1, "expires": 0, "countdown": 5, "args": [{"$result": "nobody"}]}
    assert [path for path, _ in check_call(wrong, [], 5)] == [("priority",), ("expires",), ("args", 0)]
