"""Errors as problem documents (RFC 9457): ``{"type", "title", "status", "detail"}``."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

MEDIA_TYPE = "application/problem+json"


def problem(
    status: int, detail: str, *, retry_after_seconds: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer that says what is wrong.

    Args:
        status: of HTTP.
        detail: what is wrong, in words.
        retry_after_seconds: when to ask again.
        headers: further headers.
    """
    more = dict(headers or {})
    if retry_after_seconds is not None:
        more["Retry-After"] = str(retry_after_seconds)
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(body, status, more, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Have ``app`` answer its errors so."""

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem(error.status_code, str(error.detail), headers=error.headers)

    async def failed(_: Request, error: Exception) -> Response:
        # What is in an unexpected error is for the log, where it is written by the server.
        return problem(500, f"an unexpected {type(error).__name__}; the server's log has more")

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(Exception, failed)
