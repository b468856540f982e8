from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest

from tasker.errors import ConfigurationError, PermanentError, RetryableError
from tasker.handlers.api import ApiStepHandler, check_response, retry_after_seconds
from tasker.handlers.context import StepContext

NOW = dt.datetime(2026, 1, 2, 12, 0, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Fri, 02 Jan 2026 12:00:30 GMT", 30.0),
        ("Fri, 02 Jan 2026 13:00:30 +0100", 30.0),
        ("Fri, 02 Jan 2026 11:00:00 GMT", 0.0),
        ("Friday, 02-Jan-26 12:00:30 GMT", 30.0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("", None),
    ],
)
def test_retry_after_is_read_as_seconds_and_as_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, now=NOW) == seconds


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_a_success_is_passed_on(status: int) -> None:
    response = httpx.Response(status)
    assert check_response(response) is response


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_an_answer_that_may_change_is_retryable(status: int) -> None:
    with pytest.raises(RetryableError) as caught:
        check_response(httpx.Response(status, text="busy"), what="POST /charges")
    assert str(caught.value) == f"POST /charges was answered with status {status}: busy"
    assert (caught.value.code, caught.value.retry_after_seconds) == (f"http_{status}", None)


@pytest.mark.parametrize("status", [429, 503])
def test_the_delay_that_a_server_asks_for_is_kept(status: int) -> None:
    headers = {"Retry-After": "Fri, 02 Jan 2026 12:01:00 GMT"}
    with pytest.raises(RetryableError) as caught:
        check_response(httpx.Response(status, headers=headers), now=NOW)
    assert caught.value.retry_after_seconds == 60


@pytest.mark.parametrize("status", [301, 304, 400, 401, 404, 409, 422])
def test_any_other_answer_is_final(status: int) -> None:
    with pytest.raises(PermanentError) as caught:
        check_response(httpx.Response(status, text="x" * 10_000))
    assert caught.value.code == f"http_{status}"
    assert len(str(caught.value)) < 600


Answer = Callable[[httpx.Request], httpx.Response]


class Charge(ApiStepHandler):
    base_url = "https://pay.example.com/v1/"

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer

    def client_options(self) -> dict[str, Any]:
        return {"transport": httpx.MockTransport(self.answer)}

    def call(self, ctx: StepContext[Any]) -> Any:
        return self.request(ctx, "POST", "/charges", json={"amount": ctx.context["amount"]}).json()


def test_a_request_goes_to_the_base_url_with_the_steps_idempotency_key() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"id": "c-1"})

    handler = Charge(answer)
    ctx = StepContext(context={"amount": 5}, step_uuid="s-1", settings={"headers": {"Authorization": "Bearer x"}})
    assert handler.call(ctx) == {"id": "c-1"}
    handler.close()
    (request,) = seen
    assert str(request.url) == "https://pay.example.com/v1/charges"
    assert request.content == b'{"amount":5}'
    assert (request.headers["idempotency-key"], request.headers["authorization"]) == ("s-1", "Bearer x")


def test_settings_rule_over_the_class_and_reading_needs_no_key() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    handler = Charge(answer)
    deadline = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=5)
    settings = {"base_url": "http://test", "request_timeout_seconds": 60}
    handler.request(StepContext(context={}, settings=settings, deadline=deadline), "GET", "charges/1")
    handler.request(StepContext(context={}, settings=settings), "GET", "https://other.example.com/")
    handler.close()
    assert [str(request.url) for request in seen] == ["http://test/charges/1", "https://other.example.com/"]
    assert "idempotency-key" not in seen[0].headers
    assert seen[0].extensions["timeout"]["read"] <= 5, "no longer than the attempt"
    assert seen[1].extensions["timeout"]["read"] == 60


def test_a_key_of_the_handlers_own_is_kept() -> None:
    handler = Charge(lambda request: httpx.Response(200, text=request.headers["idempotency-key"]))
    answer = handler.request(StepContext(context={}), "PUT", "/a", headers={"idempotency-key": "mine"})
    handler.close()
    assert answer.text == "mine"


@pytest.mark.parametrize(
    ("raised", "expected", "code"),
    [
        (httpx.ConnectError("refused"), RetryableError, "http_unreachable"),
        (httpx.ReadTimeout("slow"), RetryableError, "http_timeout"),
        (httpx.RemoteProtocolError("garbled"), RetryableError, "http_unreachable"),
        (httpx.UnsupportedProtocol("gopher"), PermanentError, "http_bad_request"),
        (httpx.LocalProtocolError("bad header"), PermanentError, "http_bad_request"),
    ],
)
def test_a_request_without_an_answer_is_retryable_unless_it_can_never_be_sent(
    raised: Exception, expected: type[Exception], code: str
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise raised

    handler = Charge(answer)
    with pytest.raises(expected) as caught:
        handler.call(StepContext(context={"amount": 1}))
    handler.close()
    assert caught.value.code == code  # type: ignore[attr-defined]


async def test_an_async_handler_is_answered_alike() -> None:
    handler = Charge(lambda request: httpx.Response(503, headers={"Retry-After": "7"}))
    with pytest.raises(RetryableError) as caught:
        await handler.arequest(StepContext(context={}), "GET", "/charges")
    await handler.aclose()
    assert caught.value.retry_after_seconds == 7


def test_without_httpx_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ConfigurationError, match="needs httpx") as caught:
        Charge(lambda request: httpx.Response(200)).call(StepContext(context={"amount": 1}))
    assert 'pip install "tasker-celery[http]"' in str(caught.value)


class Busy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(429)
        self.send_header("Retry-After", "3")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Busy) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


class Plain(ApiStepHandler):
    def call(self, ctx: StepContext[Any]) -> Any:
        return self.request(ctx, "GET", "/").text


def test_a_real_server_that_is_busy_is_asked_again_later(server: str) -> None:
    handler = Plain()
    with pytest.raises(RetryableError) as caught:
        handler.call(StepContext(context={}, settings={"base_url": server}))
    handler.close()
    assert caught.value.retry_after_seconds == 3


def test_a_server_that_is_not_there_is_asked_again_later() -> None:
    handler = Plain()
    with pytest.raises(RetryableError, match="got no answer"):
        handler.call(StepContext(context={}, settings={"base_url": "http://127.0.0.1:1"}))
    handler.close()


class Seen:
    """Circuits that note what their calls came to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.ended: list[type[BaseException] | None] = []

    def __call__(self, name: str, needed: bool) -> Any:
        assert not needed
        self.asked.append(name)
        return self

    def guard(self) -> Any:
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.ended.append(kind)

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.ended.append(kind)


@pytest.mark.parametrize(
    ("status", "counts_as"),
    [(200, None), (404, None), (422, None), (408, RetryableError), (429, RetryableError), (503, RetryableError)],
)
def test_only_answers_that_may_change_are_failures_of_the_system(status: int, counts_as: type | None) -> None:
    seen = Seen()
    handler = Charge(lambda request: httpx.Response(status))
    ctx = StepContext(context={}, system_dependency="bank", circuits=seen)
    with contextlib.suppress(RetryableError, PermanentError):
        handler.request(ctx, "GET", "/charges/1")
    with contextlib.suppress(RetryableError, PermanentError):
        asyncio.run(handler.arequest(ctx, "GET", "/charges/1"))
    handler.close()
    assert seen.asked == ["bank", "bank"]
    assert seen.ended == [counts_as, counts_as]


def test_a_step_without_a_system_has_a_circuit_for_each_host() -> None:
    seen = Seen()

    def unreachable(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    handler = Charge(unreachable)
    ctx = StepContext(context={}, circuits=seen)
    for url in ("/charges/1", "https://joe:secret@Other.example.com:8443/"):
        with pytest.raises(RetryableError):
            handler.request(ctx, "GET", url)
    handler.close()
    assert seen.asked == ["pay.example.com", "other.example.com:8443"]
    assert seen.ended == [RetryableError, RetryableError]


def test_a_host_for_which_the_settings_allow_no_circuit_is_called_without() -> None:
    handler = Charge(lambda request: httpx.Response(200))
    ctx = StepContext(context={}, circuits=lambda name, needed: None)
    assert handler.request(ctx, "GET", "/charges/1").status_code == 200
    handler.close()
