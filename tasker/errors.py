"""Every error Tasker raises, in one tree, and the one map from SQLSTATE to exception.

The SQL functions raise SQLSTATEs of a class of their own (``TK001`` ...). ``from_sqlstate`` turns one into
the exception below that carries it; nothing else in the package knows those codes.
"""

from __future__ import annotations

from typing import ClassVar


class TaskerError(Exception):
    """Base of all errors raised by Tasker.

    Args:
        message: what is wrong.
        hint: what to do about it; ``None`` where the message says it all.
        field: the offending field, as a dotted path (``steps[2].retry.backoff``), where there is one.
    """

    sqlstate: ClassVar[str | None] = None

    def __init__(self, message: str, *, hint: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.field = field

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} ({self.hint})"


# -- configuration and set-up ---------------------------------------------------------------------------------


class ConfigurationError(TaskerError):
    """A setting is unknown, has a bad value, or contradicts another; the message lists all that are wrong."""


class SchemaVersionError(TaskerError):
    """The database's schema is older or newer than this process needs; the message names ``tasker db migrate``."""


class EmbeddedServerError(TaskerError):
    """The embedded PostgreSQL could not be started, reached or stopped."""


# -- components that are down ----------------------------------------------------------------------------------


class CircuitOpen(TaskerError):
    """A component failed repeatedly and is left alone for a while.

    Let out of a handler by a circuit that all processes share, it parks the step until the circuit closes; no attempt
    is spent.

    Args:
        retry_after_seconds: when another call makes sense.
        circuit: name of the circuit, if all processes share it.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        retry_after_seconds: float | None = None,
        circuit: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds
        self.circuit = circuit


# -- templates and handlers -----------------------------------------------------------------------------------


class TemplateError(TaskerError):
    """A workflow definition is wrong; the message says file, line, step and field."""


class HandlerNotFound(TaskerError):
    """A step names a handler that cannot be imported or is in no module of ``engine.handler_modules``."""


# -- refused by the SQL core ----------------------------------------------------------------------------------


class InvalidRequest(TaskerError):
    """A call to the SQL core is malformed; ``field`` names the part."""

    sqlstate = "TK001"


class UnknownTemplate(TaskerError):
    """No template of that namespace, name and version is registered."""

    sqlstate = "TK002"


class TemplateInUse(TaskerError):
    """A different definition is registered under this version, and tasks use it: raise the version."""

    sqlstate = "TK003"


class NotFound(TaskerError):
    """No task or step of that identifier exists."""

    sqlstate = "TK004"


class InvalidTransition(TaskerError):
    """The task or step is in a state that does not allow what was asked."""

    sqlstate = "TK005"


class ExecutorLost(TaskerError):
    """The executor was declared lost (or never registered): register a new one; its steps are others' now."""

    sqlstate = "TK006"


class WrongIsolationLevel(TaskerError):
    """The function needs READ COMMITTED."""

    sqlstate = "TK007"


class CallRefused(TaskerError):
    """A call number below the oldest one that the executor still held: the call came too late."""

    sqlstate = "TK008"


class ClaimLost(TaskerError):
    """The claim was released, expired and taken by another, or is for an earlier finish."""

    sqlstate = "TK009"


class ContextInvalid(TaskerError):
    """The context does not fit the template's ``input_schema``, or cannot be stored as JSON."""

    sqlstate = "TK010"


class PayloadTooLarge(TaskerError):
    """A context, result or message is larger than its limit allows."""

    sqlstate = "TK011"


# -- waiting --------------------------------------------------------------------------------------------------


class Backpressure(TaskerError):
    """A namespace has more to do than its hard limit allows: nothing was created; try again later.

    Attributes:
        retry_after_seconds: when another attempt makes sense.
    """

    sqlstate = "TK012"
    retry_after_seconds: float = 5


class TaskTimeout(TaskerError, TimeoutError):
    """``wait()`` reached its timeout before the task finished; the task goes on."""


class ValueNotStorable(TaskerError, ValueError):
    """A value that JSON or PostgreSQL cannot carry (NaN, infinity, NUL, lone surrogate, non-string key, ...)."""


# -- raised by handlers ---------------------------------------------------------------------------------------


class StepError(TaskerError):
    """Base of what handlers raise to say how a step failed.

    Args:
        message: what went wrong.
        code: a short machine-readable name, stored as the error's type; the class's name when ``None``.
    """

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class PermanentError(StepError):
    """The step failed for good: no further attempt is made."""


class RetryableError(StepError):
    """The step may succeed later.

    Args:
        retry_after_seconds: wait at least this long; ``None`` leaves it to the step's backoff.
    """

    def __init__(self, message: str, *, code: str | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_seconds = retry_after_seconds


class StepCancelled(StepError):
    """Raised by ``ctx.check_cancelled()`` when the step was cancelled, lost or timed out: its result counts no more."""


_BY_SQLSTATE: dict[str, type[TaskerError]] = {
    error.sqlstate: error for error in TaskerError.__subclasses__() if error.sqlstate is not None
}


def from_sqlstate(
    sqlstate: str | None, message: str, *, hint: str | None = None, field: str | None = None, detail: str | None = None
) -> TaskerError | None:
    """The exception that stands for ``sqlstate``, or ``None`` if it is not one of Tasker's."""
    kind = _BY_SQLSTATE.get(sqlstate or "")
    if kind is None:
        return None
    error = kind(message, hint=hint or detail, field=field)
    if isinstance(error, Backpressure) and detail is not None:
        error.retry_after_seconds = float(detail)
    return error
