"""Handlers that call an HTTP API: answers become results, retries or permanent errors.

The client is httpx, an optional extra (``pip install "tasker-celery[http]"``): steps need timeouts, pooled connections
and both sync and async calls, which the standard library does not give together, and most workflows need no HTTP.
The mapping itself only looks at ``status_code``, ``headers`` and ``text``, so answers of other clients can be passed to
``check_response`` too.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from tasker.errors import ConfigurationError, PermanentError, RetryableError
from tasker.handlers.circuit import StepCircuit, Unguarded
from tasker.handlers.context import StepContext
from tasker.handlers.step_handler import StepHandler

if TYPE_CHECKING:
    import httpx

RETRYABLE_4XX = frozenset({408, 425, 429})
"""Request timeout, too early, too many requests: the same request may succeed later."""

MAX_TEXT_SHOWN = 500
_METHODS_WITH_EFFECTS = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Response(Protocol):
    """What is looked at of an answer; httpx and requests both have it."""

    @property
    def status_code(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, found whatever their case."""
        ...

    @property
    def text(self) -> str:
        """The body."""
        ...


R = TypeVar("R", bound=Response)


def check_response(response: R, *, what: str = "the request", now: datetime | None = None) -> R:
    """``response`` if it is a success (2xx), else the error that a step should fail with.

    Args:
        response: the answer.
        what: how messages name the request.
        now: what a Retry-After date is compared with; the current time when ``None``.

    Raises:
        RetryableError: 5xx, 408, 425 and 429; with the delay that a Retry-After header asks for.
        PermanentError: any other answer.
    """
    status = response.status_code
    if 200 <= status < 300:
        return response
    body = response.text.strip()
    message = f"{what} was answered with status {status}" + (f": {body[:MAX_TEXT_SHOWN]}" if body else "")
    if is_outage(response):
        delay = retry_after_seconds(response.headers.get("retry-after"), now=now)
        raise RetryableError(message, code=f"http_{status}", retry_after_seconds=delay)
    raise PermanentError(message, code=f"http_{status}")


def is_outage(response: Response) -> bool:
    """Whether an answer says that the server cannot serve now: 5xx, 408, 425 and 429."""
    return response.status_code >= 500 or response.status_code in RETRYABLE_4XX


def retry_after_seconds(header: str | None, *, now: datetime | None = None) -> float | None:
    """The delay that a Retry-After header asks for, in seconds (RFC 9110, 10.2.3).

    Args:
        header: seconds, or an HTTP date; anything else counts as absent.
        now: what a date is compared with; the current time when ``None``.
    """
    if header is None:
        return None
    header = header.strip()
    if header.isascii() and header.isdigit():
        # Longer numbers are no delay that anyone means; the limit keeps float() from overflowing.
        return float(header[:12])
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())


class ApiStepHandler(StepHandler):
    """Base of handlers that call an HTTP API.

    Subclasses implement ``call`` with ``self.request`` (or, in an ``async def call``, ``await self.arequest``). A
    request times out after ``request_timeout_seconds``, or earlier when the attempt does. Requests with effects carry
    an ``Idempotency-Key``: the step's uuid, the same in every attempt, so that a server that knows the header does the
    work once.

    Requests go through the circuit of the step's ``system_dependency``, or of the host where it has none: answers that
    are retryable (``check_response``) and requests without an answer are failures of that system, all other answers
    show that it works.

    The step's settings may give ``base_url``, ``headers`` and ``request_timeout_seconds``.
    """

    base_url: ClassVar[str] = ""
    request_timeout_seconds: ClassVar[float] = 30.0

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        # A connection belongs to the event loop that opened it.
        self._async_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()

    def headers(self, ctx: StepContext[Any]) -> Mapping[str, str]:
        """Headers of every request, for subclasses that need to sign or authorize; the settings' by default."""
        found: Mapping[str, str] = ctx.settings.get("headers", {})
        return found

    def request(self, ctx: StepContext[Any], method: str, url: str, **options: Any) -> httpx.Response:
        """Send a request and check its answer.

        Args:
            ctx: the attempt.
            method: ``GET``, ``POST`` …
            url: absolute, or relative to ``base_url``.
            options: what ``httpx.Client.request`` takes: ``json``, ``params``, ``headers`` …

        Returns:
            the answer, whose status is 2xx.

        Raises:
            RetryableError: no answer, or one that allows another attempt.
            PermanentError: any other answer, or a request that cannot be made.
            CircuitOpen: the system has failed again and again, and is not called for now; let it pass.
        """
        httpx = _httpx()
        url, options = self._options(ctx, method, url, options)
        what = f"{method} {url}"
        with self._circuit(ctx, url).guard():
            try:
                response = self._sync_client().request(method, url, **options)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise _failed(error, method, url) from error
            if is_outage(response):
                check_response(response, what=what)
        return check_response(response, what=what)

    async def arequest(self, ctx: StepContext[Any], method: str, url: str, **options: Any) -> httpx.Response:
        """As ``request``, for ``async def call``."""
        httpx = _httpx()
        url, options = self._options(ctx, method, url, options)
        what = f"{method} {url}"
        async with self._circuit(ctx, url).guard():
            try:
                response = await self._async_client().request(method, url, **options)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise _failed(error, method, url) from error
            if is_outage(response):
                check_response(response, what=what)
        return check_response(response, what=what)

    def close(self) -> None:
        """Close the connections of ``request``."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """Close the connections that ``arequest`` opened on the running event loop."""
        client = self._async_clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def client_options(self) -> dict[str, Any]:
        """Arguments of the httpx clients, for subclasses that need certificates, proxies or a transport."""
        return {}

    # -- parts of a request -----------------------------------------------------------------------------------

    def _options(
        self, ctx: StepContext[Any], method: str, url: str, options: dict[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        base = ctx.settings.get("base_url", self.base_url)
        if base and "://" not in url:
            url = f"{base.rstrip('/')}/{url.lstrip('/')}"
        headers = {**self.headers(ctx), **options.get("headers", {})}
        if method.upper() in _METHODS_WITH_EFFECTS and "idempotency-key" not in {name.lower() for name in headers}:
            headers["Idempotency-Key"] = ctx.step_uuid
        timeout = float(ctx.settings.get("request_timeout_seconds", self.request_timeout_seconds))
        remaining = ctx.remaining_seconds()
        if remaining is not None:
            timeout = max(0.001, min(timeout, remaining))
        return url, {"timeout": timeout, **options, "headers": headers}

    def _circuit(self, ctx: StepContext[Any], url: str) -> StepCircuit:
        """The step's circuit, or the host's; a host for which the settings allow none is called without."""
        if ctx.system_dependency is not None:
            circuit = ctx.circuits(ctx.system_dependency, False)
        else:
            host = _host(url)
            circuit = ctx.circuits(host, False) if host else None
        return Unguarded() if circuit is None else circuit

    def _sync_client(self) -> httpx.Client:
        with self._lock:
            if self._client is None:
                self._client = _httpx().Client(**self.client_options())
            return self._client

    def _async_client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        client = self._async_clients.get(loop)
        if client is None:
            client = self._async_clients[loop] = _httpx().AsyncClient(**self.client_options())
        return client


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise ConfigurationError(
            "ApiStepHandler needs httpx, which is not installed",
            hint='install it where the workers run: pip install "tasker-celery[http]"',
        ) from error
    return httpx


def _host(url: str) -> str:
    """Host and port of ``url``; empty where it has none."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2].lower()
    except ValueError:
        return ""


def _failed(error: Exception, method: str, url: str) -> Exception:
    """The error of a request that got no answer."""
    httpx = _httpx()
    said = str(error) or type(error).__name__
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError)):
        return PermanentError(f"{method} {url!r} cannot be sent: {said}", code="http_bad_request")
    code = "http_timeout" if isinstance(error, httpx.TimeoutException) else "http_unreachable"
    return RetryableError(f"{method} {url} got no answer: {said}", code=code)
