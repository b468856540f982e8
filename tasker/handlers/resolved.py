"""A handler that was found: how the executor calls it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from tasker.errors import ContextInvalid, PermanentError
from tasker.handlers.context import StepContext
from tasker.handlers.environment import has_references, substitute
from tasker.handlers.results import ResultCheck
from tasker.workflows.celery_calls import CeleryCall, build_call
from tasker.workflows.signatures import HandlerSignature
from tasker.workflows.typed import TypedValue, describe


@dataclass(frozen=True)
class Target:
    """What a handler's name led to.

    Attributes:
        function: called with the context and the results it asks for.
        signature: what it takes and returns.
        origin: the function or class itself, on which declarations are noted.
        instance: the object whose method ``function`` is, if any.
    """

    function: Callable[..., Any]
    signature: HandlerSignature
    origin: Any
    instance: Any = None


class ResolvedHandler:
    """A handler ready to run attempts of one step; threads and coroutines may share it.

    Attributes:
        name: as the template names it.
        is_async: whether ``invoke`` returns an awaitable.
        celery_task: name of the Celery task to send instead, for ``celery:`` handlers; ``invoke`` is of no use then.
    """

    def __init__(
        self,
        name: str,
        target: Target | None,
        *,
        celery_task: str | None = None,
        context_type: TypedValue | None = None,
        results: ResultCheck | None = None,
    ) -> None:
        self.name = name
        self.celery_task = celery_task
        self.target = target
        self.is_async = target is not None and target.signature.is_async
        self._context_type = context_type
        self._results = results or ResultCheck(name, None, None)
        if target is not None and target.signature.context is not None:
            # What the function itself says counts more than what its workflow says.
            self._context_type = target.signature.context

    def invoke(self, ctx: StepContext[Any]) -> Any | Awaitable[Any]:
        """Run one attempt.

        Args:
            ctx: the attempt, with settings as the template has them and the context and results as JSON values.

        Returns:
            the result as a JSON value that fits the step's ``result_schema``, or an awaitable of it if ``is_async``.

        Raises:
            PermanentError: settings, context, a parent's result or the result are not what they must be.
            Exception: whatever the handler raises; ``failures.classify`` says what it means.
        """
        assert self.target is not None, "a Celery task is sent, not invoked"
        if self.is_async:
            return self._ainvoke(ctx)
        prepared = self._prepared(ctx)
        value = self.target.function(prepared, **self._arguments(ctx))
        if inspect.isawaitable(value) or inspect.isgenerator(value) or inspect.isasyncgen(value):
            if inspect.iscoroutine(value):
                value.close()
            raise PermanentError(
                f"handler {self.name} returned a {type(value).__name__} instead of a result: declare it `async def`, "
                "or return the value",
                code="bad_handler",
            )
        return self._results.result(value)

    async def _ainvoke(self, ctx: StepContext[Any]) -> Any:
        assert self.target is not None
        prepared = self._prepared(ctx)
        value = await self.target.function(prepared, **self._arguments(ctx))
        return self._results.result(value)

    def celery_call(self, ctx: StepContext[Any]) -> CeleryCall:
        """How to send the step's Celery task, for handlers with a ``celery_task``.

        Raises:
            PermanentError: a reference in its arguments leads nowhere, or an environment variable is unset.
        """
        return build_call(_settings(ctx), ctx.context, ctx.results)

    # -- what the handler is given ----------------------------------------------------------------------------

    def _prepared(self, ctx: StepContext[Any]) -> StepContext[Any]:
        settings = _settings(ctx)
        if self._context_type is None:
            return ctx if settings is ctx.settings else replace(ctx, settings=settings)
        try:
            context = self._context_type.from_json(ctx.context)
        except ValidationError as error:
            raise ContextInvalid(
                f"the task's context is no {self._context_type.name}, which handler {self.name} expects: "
                f"{describe(error)}"
            ) from error
        return replace(ctx, settings=settings, context=context)

    def _arguments(self, ctx: StepContext[Any]) -> dict[str, Any]:
        assert self.target is not None
        arguments: dict[str, Any] = {}
        for dependency in self.target.signature.dependencies:
            name, kind = dependency.name, dependency.type
            if name not in ctx.results:
                raise PermanentError(
                    f"handler {self.name} asks for the result of step {name!r}, on which step {ctx.step_name!r} does "
                    "not depend: add it to depends_on, or rename the parameter",
                    code="bad_handler",
                )
            result = ctx.results[name]
            try:
                arguments[name] = result if kind is None else kind.from_json(result)
            except ValidationError as error:
                assert kind is not None
                raise PermanentError(
                    f"the result of step {name!r} is no {kind.name}, which handler {self.name} expects: "
                    f"{describe(error)}",
                    code="dependency_result_mismatch",
                ) from error
        return arguments


def _settings(ctx: StepContext[Any]) -> Mapping[str, Any]:
    return substitute(ctx.settings) if has_references(ctx.settings) else ctx.settings
