"""What every request is held to, and how errors look."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from starlette.types import ASGIApp

from tasker.web import problems
from tasker.web.asking import Asking
from tasker.web.limits import Limits


def client(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://test")


def app_with(path: str, answer: Callable[[], Awaitable[object]]) -> FastAPI:
    app = FastAPI()
    problems.install(app)
    app.get(path)(answer)
    app.get("/live")(_alive)
    return app


async def _alive() -> str:
    return "alive"


async def test_a_request_that_takes_too_long_is_answered_all_the_same() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    async with client(Limits(app_with("/never", never), timeout_seconds=0.05, most=10)) as asking:
        answer = await asking.get("/never")
    assert answer.status_code == 504
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Gateway Timeout",
        "status": 504,
        "detail": "no answer within 0.05 s (web.request_timeout_ms)",
    }


async def test_an_answer_that_has_begun_may_take_longer() -> None:
    async def slow() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"first "
            await asyncio.sleep(0.1)  # twice the time-out
            yield b"second"

        return StreamingResponse(parts())

    async with client(Limits(app_with("/slow", slow), timeout_seconds=0.05, most=10)) as asking:
        assert (await asking.get("/slow")).text == "first second"


async def test_too_many_requests_are_sent_away_and_probes_are_not() -> None:
    gate = asyncio.Event()
    begun = asyncio.Semaphore(0)

    async def waiting() -> str:
        begun.release()
        await gate.wait()
        return "done"

    async with client(Limits(app_with("/wait", waiting), timeout_seconds=30, most=2)) as asking:
        held = [asyncio.create_task(asking.get("/wait")) for _ in range(2)]
        for _ in held:
            await begun.acquire()
        refused = await asking.get("/other")
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["title"] == "Service Unavailable"
        assert (await asking.get("/live")).status_code == 200
        gate.set()
        assert [(await each).json() for each in held] == ["done", "done"]
        assert (await asking.get("/other")).status_code == 404, "there is room again"


async def test_an_error_nobody_expected_is_a_problem_that_tells_no_secrets() -> None:
    async def broken() -> None:
        raise ValueError("password=secret")

    async with client(app_with("/broken", broken)) as asking:
        answer = await asking.get("/broken")
    assert answer.status_code == 500
    assert answer.json()["detail"] == "an unexpected ValueError; the server's log has more"


async def test_what_blocks_is_given_up_in_time_and_probes_have_threads_of_their_own() -> None:
    import threading

    gate = threading.Event()
    asking = Asking(1)
    try:
        late = asyncio.create_task(asking.ask(gate.wait, seconds=0.05))
        assert await asking.ask(lambda: "ready", seconds=30, probe=True) == "ready"
        try:
            await late
        except TimeoutError:
            pass
        else:
            raise AssertionError("it was waited for")
    finally:
        gate.set()
        asking.close()
