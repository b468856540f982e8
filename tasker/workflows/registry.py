"""Registered templates: storing them, reading them back, and loading those of ``engine.template_paths``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tasker.config.settings import Settings
from tasker.database import reads
from tasker.database.calls import Call, Target, execute, run
from tasker.database.connection import Database
from tasker.database.functions import register_template, set_local
from tasker.database.records import TemplateRecord
from tasker.errors import ConfigurationError, UnknownTemplate
from tasker.workflows.cache import ExpiringCache
from tasker.workflows.contexts import check_context
from tasker.workflows.declaration import Workflow
from tasker.workflows.loading import for_environment, load_template
from tasker.workflows.model import WorkflowTemplate
from tasker.workflows.problems import InvalidTemplate, Problem, did_you_mean
from tasker.workflows.yaml_source import SUFFIXES

T = TypeVar("T")


@dataclass(frozen=True)
class Registration:
    """What registering one version did.

    Attributes:
        workflow: ``namespace/name:version``.
        named_task_id: the number by which tasks refer to it.
        is_new: the version was not there before.
        replaced: another definition stood under this version, and no task had used it yet.
    """

    workflow: str
    named_task_id: int
    is_new: bool
    replaced: bool


@dataclass(frozen=True)
class RegisteredTemplate:
    """One registered version.

    Attributes:
        record: the row, with its definition.
    """

    record: TemplateRecord

    @property
    def named_task_id(self) -> int:
        """The number by which tasks refer to it."""
        return self.record.named_task_id

    @property
    def full_name(self) -> str:
        """``namespace/name:version``."""
        return f"{self.record.namespace}/{self.record.name}:{self.record.version}"

    @property
    def definition(self) -> dict[str, Any]:
        """The definition as registered: steps in topological order, every default resolved."""
        found: dict[str, Any] = self.record.definition
        return found

    @property
    def document(self) -> dict[str, Any]:
        """The canonical document: what its author said; empty for definitions that other languages registered so."""
        found: dict[str, Any] = self.definition.get("document") or {}
        return found

    @property
    def graph(self) -> dict[str, tuple[str, ...]]:
        """Each step's name with the names of those it depends on, in topological order."""
        return {step["name"]: tuple(step.get("depends_on") or ()) for step in self.definition["steps"]}

    def check_context(self, context: Any) -> None:
        """Check a context for this workflow.

        Raises:
            ContextInvalid: it does not fit the input schema.
        """
        check_context(context, self.record.input_schema, self.full_name)


class TemplateRegistry:
    """The templates in the database, read through a small cache.

    Args:
        database: where they are.
        settings: resolves defaults and limits at registration; ``query_cache.task_metadata`` bounds the cache.
        monotonic: the cache's clock, in seconds.
    """

    def __init__(
        self, database: Database, settings: Settings, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._settings = settings
        kept = settings.query_cache.task_metadata
        self._cache: ExpiringCache[tuple[Any, ...], RegisteredTemplate] = ExpiringCache(
            ttl_seconds=kept.ttl_seconds,
            max_entries=kept.max_entries if settings.query_cache.enabled else 0,
            monotonic=monotonic,
        )

    def register(self, template: WorkflowTemplate | Workflow, *, connection: Target | None = None) -> Registration:
        """Store one version; the same definition again changes nothing.

        Args:
            template: read from YAML or declared in Python.
            connection: register in the caller's transaction, and leave it open.

        Raises:
            InvalidTemplate: it is larger than the settings allow.
            TemplateInUse: another definition is registered under this version, and tasks use it.
        """
        if isinstance(template, Workflow):
            template = template.template
        call = register_template(template.to_definition(self._settings))
        answer = self._run(call, connection)
        self._cache.clear()
        return Registration(template.full_name, answer["named_task_id"], answer["is_new"], answer["replaced"])

    def get(
        self, namespace: str, name: str, version: str | None = None, *, connection: Target | None = None
    ) -> RegisteredTemplate:
        """A registered version.

        Args:
            namespace: of the workflow.
            name: of the workflow.
            version: the highest when ``None``. What is the highest may be as old as the cache allows.
            connection: ask on the caller's connection.

        Raises:
            UnknownTemplate: there is none; the message names the nearest.
        """

        def read() -> RegisteredTemplate:
            record = self._run(reads.template(namespace, name, version), connection)
            if record is None:
                raise self._unknown(namespace, name, version, connection)
            return RegisteredTemplate(record)

        return self._read((namespace, name, version), connection, read)

    def get_by_id(self, named_task_id: int, *, connection: Target | None = None) -> RegisteredTemplate:
        """As ``get``, by the number that tasks refer to."""

        def read() -> RegisteredTemplate:
            record = self._run(reads.template_by_id(named_task_id), connection)
            if record is None:
                raise UnknownTemplate(f"no workflow is registered under the number {named_task_id}")
            return RegisteredTemplate(record)

        return self._read((named_task_id,), connection, read)

    def list(self, namespace: str | None = None, name: str | None = None) -> tuple[TemplateRecord, ...]:
        """All registered versions, without their definitions, the highest of each workflow first."""
        return self._run(reads.templates(namespace, name), None)

    def load(
        self,
        paths: Iterable[Path | str] | None = None,
        *,
        check: Callable[[WorkflowTemplate], Iterable[Problem]] | None = None,
    ) -> tuple[Registration, ...]:
        """Register every template under ``paths``: all of them, or none if any is wrong.

        Args:
            paths: files, or folders that are searched with their subfolders; ``engine.template_paths`` when ``None``.
            check: a further check of each, such as whether its handlers are there.

        Raises:
            ConfigurationError: a path does not exist.
            InvalidTemplate: the problems of all of them.
            TemplateInUse: as for ``register``.
        """
        templates: list[WorkflowTemplate] = []
        problems: list[Problem] = []
        for file in template_files(self._settings.engine.template_paths if paths is None else paths):
            try:
                template = for_environment(load_template(file), self._settings.environment)
                templates.append(template)
                problems += [] if check is None else check(template)
            except InvalidTemplate as error:
                problems += error.problems
        problems += duplicates(templates)
        if problems:
            raise InvalidTemplate(problems)
        if not templates:
            return ()
        with self._database.connection() as connection, connection.transaction():
            # Of a program that is gone without a word the server would not hear for hours, and keep its locks.
            run(connection, set_local(idle_in_transaction_session_timeout="1min"))
            return tuple(self.register(template, connection=connection) for template in templates)

    def _read(
        self, key: tuple[Any, ...], connection: Target | None, read: Callable[[], RegisteredTemplate]
    ) -> RegisteredTemplate:
        """Through the cache, but for the caller's own transaction: what it sees may never be committed."""
        return self._cache.get(key, read) if connection is None else read()

    def _run(self, call: Call[T], connection: Target | None) -> T:
        if connection is not None:
            return execute(connection, call)
        with self._database.connection() as own:
            return execute(own, call)

    def _unknown(self, namespace: str, name: str, version: str | None, connection: Target | None) -> UnknownTemplate:
        known = self._run(reads.templates(), connection)
        versions = [record.version for record in known if (record.namespace, record.name) == (namespace, name)]
        wanted = f"{namespace}/{name}" + (f":{version}" if version else "")
        if versions:
            message = f"no version {version} of {namespace}/{name} is registered, only {', '.join(versions[:10])}"
            return UnknownTemplate(message, field="version")
        hint = did_you_mean(f"{namespace}/{name}", sorted({f"{r.namespace}/{r.name}" for r in known}))
        return UnknownTemplate(
            f"no workflow {wanted} is registered{hint}",
            hint="`tasker template list` shows what is; `tasker template register FILE` adds one",
            field="name",
        )


def template_files(paths: Iterable[Path | str]) -> Iterator[Path]:
    """The YAML files among ``paths`` and below those that are folders, in a stable order.

    Raises:
        ConfigurationError: a path does not exist.
    """
    for given in paths:
        path = Path(given)
        if path.is_dir():
            found = (file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
            yield from sorted(file for file in found if not _hidden(file.relative_to(path)))
        elif path.exists():
            yield path
        else:
            raise ConfigurationError(
                f"there is no file or folder {str(path)!r} to load templates from",
                hint="correct the path, or engine.template_paths",
                field="engine.template_paths",
            )


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def duplicates(templates: Iterable[WorkflowTemplate]) -> Iterator[Problem]:
    """Versions that several files define, differently or not."""
    first: dict[str, WorkflowTemplate] = {}
    for template in templates:
        other = first.setdefault(template.full_name, template)
        if other is not template:
            yield template.source.problem(f"{template.full_name} is defined in {other.source.file} too", ("version",))
