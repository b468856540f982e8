"""Serving the application: one uvicorn server on the main thread, until a signal ends it."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from tasker.errors import ConfigurationError
from tasker.resilience.answer_timeout import hurry_no_more, hurry_when

GOOD_BYE_SECONDS = 10
"""Requests that are being answered may go on for so long; then they are broken off."""

HURRIED_SECONDS = 1.0
"""Longest silence of the database that is borne meanwhile."""

BACKLOG = 2048


def serve(app: FastAPI, host: str, port: int, *, listening: Callable[[str], object]) -> None:
    """Serve ``app`` until SIGTERM or SIGINT; a second SIGINT ends it at once. Called on the main thread.

    Args:
        app: what is served.
        host: the address, or name, to listen on.
        port: its port; 0 takes a free one.
        listening: told the URL, once connections are taken.

    Raises:
        ConfigurationError: the address cannot be had.
    """
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=GOOD_BYE_SECONDS
    )
    server = uvicorn.Server(config)
    with _listening_on(host, port) as listener, _signals_end_here():
        name = f"[{host}]" if ":" in host else host
        listening(f"http://{name}:{listener.getsockname()[1]}")

        def is_ending() -> bool:
            return server.should_exit

        hurry_when(is_ending, HURRIED_SECONDS)
        try:
            server.run(sockets=[listener])
        finally:
            hurry_no_more(is_ending)


@contextmanager
def _listening_on(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"the server cannot listen on {host}:{port}: {error.strerror or error}",
            hint="another program has it, or it is none of this machine's (`tasker config explain web.bind_address`)",
            field="web.bind_address",
        ) from None
    with listener:
        yield listener


@contextmanager
def _signals_end_here() -> Iterator[None]:
    """The server raises again what ended it, for those who were there before: nobody was, and there is more to do."""

    def ended(number: int, frame: Any) -> None:
        pass

    before = {number: signal.signal(number, ended) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
