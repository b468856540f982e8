"""What handlers see of the circuit of an external system."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

T = TypeVar("T")


class Block(Protocol):
    """A guarded call, as a block: ``with`` or ``async with``."""

    def __enter__(self) -> Any:
        """Begin it.

        Raises:
            CircuitOpen: the circuit is open.
        """
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """End it; how it ended counts."""
        ...

    async def __aenter__(self) -> Any:
        """As ``__enter__``; never blocks the event loop."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """As ``__exit__``."""
        ...


class StepCircuit(Protocol):
    """The circuit of one external system, as ``ctx.circuit(name)`` gives it to a handler."""

    def guard(self) -> Block:
        """A block whose end counts.

        Entering raises ``CircuitOpen`` when the circuit is open; let that out of the handler, and the step waits
        until it closes.
        """
        ...

    def call(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """``function(*args, **kwargs)``, guarded.

        Raises:
            CircuitOpen: the circuit is open; the function was not called.
        """
        ...

    async def acall(self, function: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        """As ``call``, for a coroutine function."""
        ...


class Unguarded:
    """The circuit of a context that no executor made, as in a user's unit test: everything passes, nothing counts."""

    def guard(self) -> Unguarded:
        """A block that is only a block."""
        return self

    def call(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """``function(*args, **kwargs)``."""
        return function(*args, **kwargs)

    async def acall(self, function: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        """``await function(*args, **kwargs)``."""
        return await function(*args, **kwargs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        pass
