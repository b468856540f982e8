"""What a handler's signature says: the context it takes, the steps whose results it needs, and what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from tasker.handlers.context import StepContext
from tasker.workflows.typed import TypedValue, TypeUnusable, show

AnyFunction = Callable[..., Any]


class SignatureUnusable(ValueError):
    """A handler cannot be called by an executor; the message says why."""


@dataclass(frozen=True)
class Dependency:
    """A parameter that receives the result of the step it is named after.

    Attributes:
        name: of the parameter and the step.
        type: what the result is turned into; ``None`` passes the JSON value.
    """

    name: str
    type: TypedValue | None


@dataclass(frozen=True)
class HandlerSignature:
    """How to call a handler.

    Attributes:
        context: type of ``ctx.context``, where the annotation says it (``StepContext[OrderRequest]``).
        dependencies: the parameters after the context.
        returns: what the handler returns, where its annotation says more than "anything".
        is_async: whether it is declared by ``async def``.
    """

    context: TypedValue | None
    dependencies: tuple[Dependency, ...]
    returns: TypedValue | None
    is_async: bool


def handler_signature(function: AnyFunction, names: Mapping[str, Any] | None = None) -> HandlerSignature:
    """Inspect a handler: a function, or the bound ``call`` of a class.

    Args:
        function: the handler.
        names: names its annotations may use besides those of its module.

    Raises:
        SignatureUnusable: an executor could not call it.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise SignatureUnusable("is a generator: a step has one result, so return it instead of yielding")
    signature = _evaluated(function, names)
    parameters = list(signature.parameters.values())
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise SignatureUnusable("must take the StepContext as its first parameter, as in def step(ctx: StepContext)")
    return HandlerSignature(
        context=_context_type(parameters[0]),
        dependencies=tuple(_dependency(parameter) for parameter in parameters[1:]),
        returns=_return_type(signature.return_annotation),
        is_async=inspect.iscoroutinefunction(function),
    )


def _evaluated(function: AnyFunction, names: Mapping[str, Any] | None) -> inspect.Signature:
    try:
        return inspect.signature(function, locals=dict(names or {}), eval_str=True)
    except NameError as error:
        raise SignatureUnusable(
            f"has an annotation that cannot be evaluated: {error}; import or define the name before the step, outside "
            "of `if TYPE_CHECKING:`"
        ) from error
    except (TypeError, ValueError, SyntaxError, AttributeError) as error:
        raise SignatureUnusable(f"has a signature that cannot be read: {error}") from error


def _context_type(parameter: inspect.Parameter) -> TypedValue | None:
    annotation = parameter.annotation
    if get_origin(annotation) is not StepContext:
        plain = (inspect.Parameter.empty, Any, object, StepContext)
        if annotation in plain or not isinstance(annotation, type) or issubclass(StepContext, annotation):
            return None
        raise SignatureUnusable(
            f"receives the StepContext in its first parameter, but {parameter.name!r} is annotated "
            f"{show(annotation)}: put a parameter for the context before it"
        )
    (inner,) = get_args(annotation)
    return None if inner is Any else _typed(inner, f"annotates {parameter.name!r} with StepContext of")


def _dependency(parameter: inspect.Parameter) -> Dependency:
    name = parameter.name
    match parameter.kind:
        case inspect.Parameter.VAR_POSITIONAL:
            raise SignatureUnusable(f"takes *{name}: name each step whose result it needs as a parameter of its own")
        case inspect.Parameter.VAR_KEYWORD:
            raise SignatureUnusable(f"takes **{name}: name each step whose result it needs as a parameter of its own")
        case inspect.Parameter.POSITIONAL_ONLY:
            raise SignatureUnusable(f"takes {name!r} by position only: results of steps are passed by name")
        case _:
            pass
    if parameter.default is not inspect.Parameter.empty:
        raise SignatureUnusable(
            f"has a default for {name!r}: the result of a step it depends on is always there; remove the default, or "
            "pass what is no step's result in handler settings"
        )
    if parameter.annotation in (inspect.Parameter.empty, Any):
        return Dependency(name, None)
    return Dependency(name, _typed(parameter.annotation, f"annotates {name!r} with"))


def _return_type(annotation: Any) -> TypedValue | None:
    if annotation in (inspect.Signature.empty, Any, object):
        return None
    return _typed(annotation, "returns")


def _typed(annotation: Any, verb: str) -> TypedValue:
    try:
        return TypedValue(annotation)
    except TypeUnusable as error:
        raise SignatureUnusable(f"{verb} {error}; use a pydantic model, a dataclass or a TypedDict") from error
