"""Finding the code that a template names: ``HandlerRegistry``.

Names come out of the database, so they must not make a worker import whatever somebody wrote there: only modules that
``engine.handler_modules`` lists are imported, with their submodules. What a program itself declared or registered in
this process needs no listing.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, TypeVar

from tasker.config.settings import Settings
from tasker.errors import HandlerNotFound
from tasker.handlers.resolved import ResolvedHandler, Target
from tasker.handlers.results import ResultCheck
from tasker.workflows.cache import ExpiringCache
from tasker.workflows.declared import declarations_of, recall
from tasker.workflows.problems import did_you_mean
from tasker.workflows.schemas import SchemaInvalid, compile_schema
from tasker.workflows.signatures import SignatureUnusable, handler_signature
from tasker.workflows.typed import TypedValue

F = TypeVar("F", bound=Callable[..., Any])

CELERY_PREFIX = "celery:"

_COLON_PATH = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.(?:<locals>|[^\W\d]\w*))*)")
_DOTTED_PATH = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*)\.([^\W\d]\w*)")

_named: dict[str, Any] = {}


def handler(name: str) -> Callable[[F], F]:
    """Decorator: make a function or a ``StepHandler`` class known to templates as ``name``.

    Its module must be listed in ``engine.handler_modules``, so that workers import it before they look.

    Args:
        name: what templates write in ``handler.callable``; without colons.

    Raises:
        ValueError: the name has a colon, or stands for something else already.
    """
    if ":" in name or not name:
        raise ValueError(f"a registered name has no colon and is not empty, unlike {name!r}")

    def register(target: F) -> F:
        known = _named.get(name)
        if known is not None and _identity(known) != _identity(target):
            raise ValueError(f"the handler name {name!r} stands for {_identity(known)} already")
        _named[name] = target
        return target

    return register


class HandlerRegistry:
    """Resolves the handlers that templates name, each once.

    Args:
        settings: ``engine.handler_modules`` says where to look, ``query_cache.handler_metadata`` for how long what was
            found is kept.
    """

    def __init__(self, settings: Settings) -> None:
        self._modules = tuple(settings.engine.handler_modules)
        kept = settings.query_cache.handler_metadata
        self._found: ExpiringCache[tuple[str, str | None], ResolvedHandler] = ExpiringCache(
            ttl_seconds=kept.ttl_seconds,
            max_entries=kept.max_entries if settings.query_cache.enabled else 0,
        )
        self._registered: dict[str, Any] = {}
        self._all_imported = False

    def register(self, name: str, target: Callable[..., Any]) -> None:
        """Make ``target`` known to this registry as ``name``; it hides what the name stood for before."""
        self._registered[name] = target
        self._found.clear()

    def resolve(self, name: str, method: str | None = None) -> ResolvedHandler:
        """The handler that ``name`` stands for, without anything a particular step adds.

        Args:
            name: ``package.module:attribute``, ``package.module.Attribute``, a registered name or ``celery:task.name``.
            method: the method of a class to call instead of ``call``.

        Raises:
            HandlerNotFound: there is none, or nothing an executor can call; the message says what to do.
        """
        return self._found.get((name, method), lambda: self._resolve(name, method))

    def for_step(
        self,
        handler: Mapping[str, Any],
        *,
        step_name: str,
        depends_on: Iterable[str],
        result_schema: dict[str, Any] | None,
        workflow: tuple[str, str, str],
    ) -> ResolvedHandler:
        """The handler of one step of one version: it also knows what the step and its workflow add.

        ``invoke`` then checks the result against ``result_schema``, and makes ``ctx.context`` what the workflow
        declares.

        Args:
            handler: the step's ``callable``, ``method`` and ``initialization``, as registered.
            step_name: name of the step.
            depends_on: names of the steps whose results it gets.
            result_schema: the step's schema; compiled here, so ask once per version and process.
            workflow: namespace, name and version.

        Raises:
            HandlerNotFound: as for ``resolve``; or the handler asks for results that the step does not get.
        """
        plain = self.resolve(handler["callable"], handler.get("method"))
        if plain.target is None:
            return plain
        needed = list(depends_on)
        for dependency in plain.target.signature.dependencies:
            if dependency.name not in needed:
                raise HandlerNotFound(
                    f"handler {plain.name} of step {step_name!r} has a parameter {dependency.name!r}, but the step "
                    f"does not depend on a step of that name{did_you_mean(dependency.name, needed)}",
                    hint="add it to depends_on, or rename the parameter",
                    field="handler.callable",
                )
        try:
            schema = None if result_schema is None else compile_schema(result_schema)
        except SchemaInvalid as error:
            raise HandlerNotFound(
                f"the result_schema of step {step_name!r} is no JSON Schema this version understands: {error.message}",
                hint="register the workflow again under a higher version",
                field="result_schema",
            ) from error
        return ResolvedHandler(
            plain.name,
            plain.target,
            context_type=_declared_context(plain.target.origin, workflow),
            results=ResultCheck(step_name, schema, plain.target.signature.returns),
        )

    def find(self, name: str) -> Any:
        """The function, class or object that ``name`` stands for, whatever it is.

        Raises:
            HandlerNotFound: there is none.
        """
        for known in (self._registered.get(name), _named.get(name), recall(name)):
            if known is not None:
                return known
        colon, dotted = _COLON_PATH.fullmatch(name), _DOTTED_PATH.fullmatch(name)
        if colon is not None:
            return self._attribute(name, colon.group(1), colon.group(2))
        if ":" not in name:
            self._import_all()
            if name in _named:
                return _named[name]
        if dotted is not None:
            return self._attribute(name, dotted.group(1), dotted.group(2))
        raise HandlerNotFound(
            f"{name!r} names no handler of Python{did_you_mean(name, [*self._registered, *_named])}",
            hint="write package.module:function, package.module.Class, a registered name, or celery:task.name",
            field="handler.callable",
        )

    def find_object(self, name: str) -> Any:
        """As ``find``, and an instance where that is a class.

        Raises:
            HandlerNotFound: there is none, or the class cannot be made without arguments.
        """
        found = self.find(name)
        return _instance(name, found) if isinstance(found, type) else found

    def import_all(self) -> None:
        """Import every listed module with its submodules, so that what they declare is known; once.

        Raises:
            HandlerNotFound: one of them cannot be imported.
        """
        self._import_all()

    # -- steps of the search ----------------------------------------------------------------------------------

    def _resolve(self, name: str, method: str | None) -> ResolvedHandler:
        if name.startswith(CELERY_PREFIX):
            return ResolvedHandler(name, None, celery_task=name.removeprefix(CELERY_PREFIX))
        found = self.find(name)
        if hasattr(found, "apply_async") and hasattr(found, "delay"):
            raise _unusable(name, "is a Celery task", f"name it as one: {CELERY_PREFIX}{getattr(found, 'name', name)}")
        function, instance = found, None
        if isinstance(found, type) or not callable(found) or hasattr(found, "call"):
            instance = _instance(name, found) if isinstance(found, type) else found
            function = getattr(instance, method or "call", None)
            if not callable(function):
                known = [entry for entry in dir(instance) if not entry.startswith("_")]
                raise _unusable(
                    name,
                    f"has no method {method or 'call'!r}{did_you_mean(method or 'call', known)}",
                    "name a function, or a class derived from StepHandler",
                )
        elif method is not None:
            raise _unusable(name, f"is a function, so there is no method {method!r}", "leave handler.method out")
        return ResolvedHandler(name, self._target(name, found, function, instance))

    def _target(self, name: str, found: Any, function: Callable[..., Any], instance: Any) -> Target:
        declared = declarations_of(found)
        if declared and (instance is None or getattr(function, "__name__", "") == "call"):
            # Inspected when it was declared, with the names that were visible there.
            return Target(function, declared[0].signature, found, instance)
        try:
            return Target(function, handler_signature(function), found, instance)
        except SignatureUnusable as error:
            raise _unusable(name, str(error), "change the handler") from error

    def _attribute(self, name: str, module_name: str, attribute: str) -> Any:
        if "<locals>" in attribute:
            raise HandlerNotFound(
                f"handler {name!r} was declared inside a function of another process",
                hint="move it to the top level of its module, where workers can import it",
                field="handler.callable",
            )
        if not any(module_name == listed or module_name.startswith(f"{listed}.") for listed in self._modules):
            listed = ", ".join(self._modules) or "empty"
            raise HandlerNotFound(
                f"handler {name!r} is in module {module_name!r}, which engine.handler_modules ({listed}) does not list"
                f"{did_you_mean(module_name, self._modules)}",
                hint=f"add {module_name!r}, or a package that contains it, to engine.handler_modules",
                field="handler.callable",
            )
        found: Any = self._import(name, module_name)
        for part in attribute.split("."):
            try:
                found = getattr(found, part)
            except AttributeError as error:
                known = [entry for entry in dir(found) if not entry.startswith("_")]
                raise HandlerNotFound(
                    f"handler {name!r}: {getattr(found, '__name__', found)!r} has nothing called {part!r}"
                    f"{did_you_mean(part, known)}",
                    hint="correct handler.callable, or deploy the code that has it to this worker",
                    field="handler.callable",
                ) from error
            if isinstance(found, ModuleType):
                # Else every module that a listed one imports would be within reach: shop.orders:os.system
                raise HandlerNotFound(
                    f"handler {name!r}: {part!r} is a module, reached through another one",
                    hint=f"name it itself, {found.__name__}:…, and list it in engine.handler_modules",
                    field="handler.callable",
                )
        return found

    def _import(self, name: str, module_name: str) -> Any:
        try:
            return importlib.import_module(module_name)
        except ImportError as error:
            raise HandlerNotFound(
                f"handler {name!r}: the module {module_name!r} cannot be imported: {error}",
                hint="install it where this worker runs, or put its folder on PYTHONPATH",
                field="handler.callable",
            ) from error
        except Exception as error:
            raise HandlerNotFound(
                f"handler {name!r}: importing {module_name!r} raised {type(error).__name__}: {error}",
                hint="the module itself is at fault: import it by hand to see the traceback",
                field="handler.callable",
            ) from error

    def _import_all(self) -> None:
        """Import every listed module with its submodules, so that their registered names are known; once."""
        if self._all_imported:
            return
        for listed in self._modules:
            module = self._import(listed, listed)
            for entry in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{listed}."):
                # A package's __main__ is a program: importing it would run it.
                if not entry.name.endswith(".__main__"):
                    self._import(entry.name, entry.name)
        self._all_imported = True


def _instance(name: str, found: type) -> Any:
    try:
        return found()
    except TypeError as error:
        raise _unusable(
            name, f"cannot be made without arguments: {error}", "settings come by ctx.settings, not by __init__"
        ) from error


def _declared_context(origin: Any, workflow: tuple[str, str, str]) -> TypedValue | None:
    """The type of context that the handler's workflow declares, of this version if that is declared here."""
    namespace, name, version = workflow
    declared = [
        entry.workflow
        for entry in declarations_of(origin)
        if (entry.workflow.namespace, entry.workflow.name) == (namespace, name)
    ]
    for candidate in declared:
        if candidate.version == version:
            return candidate.context_type
    return declared[-1].context_type if declared else None


def _unusable(name: str, what: str, hint: str) -> HandlerNotFound:
    return HandlerNotFound(f"handler {name!r} {what}", hint=hint, field="handler.callable")


def _identity(target: Any) -> str:
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', repr(target))}"
