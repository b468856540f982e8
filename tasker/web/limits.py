"""What every request is held to: a time by which it is answered, and how many there may be at once."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tasker.web.problems import problem

ALWAYS = ("/live", "/ready")
"""Answered however many other requests there are: who asks would take a server for dead that is only busy."""

RETRY_AFTER_SECONDS = 1


class Limits:
    """The outermost layer of the application. All on the one event loop's thread.

    Args:
        app: the layers below.
        timeout_seconds: a request that has not begun to be answered after this is answered with 504. What takes long to
            be sent, once it has begun, may take so long.
        most: requests beyond these are answered with 503.
    """

    def __init__(self, app: ASGIApp, *, timeout_seconds: float, most: int) -> None:
        self._app = app
        self._timeout_seconds = timeout_seconds
        self._most = most
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._running >= self._most and scope["path"] not in ALWAYS:
            detail = f"{self._most} requests are being answered, as many as web.max_concurrent_requests allows"
            await problem(503, detail, retry_after_seconds=RETRY_AFTER_SECONDS)(scope, receive, send)
            return
        self._running += 1
        try:
            await self._in_time(scope, receive, send)
        finally:
            self._running -= 1

    async def _in_time(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            if not begun:
                begun = True
                bound.reschedule(None)
            await send(message)

        try:
            async with asyncio.timeout(self._timeout_seconds) as bound:
                await self._app(scope, receive, watched)
        except TimeoutError:
            if begun:
                raise
            detail = f"no answer within {self._timeout_seconds:g} s (web.request_timeout_ms)"
            await problem(504, detail)(scope, receive, send)
