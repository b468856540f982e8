"""``Settings``: all sections in one frozen object that knows where each value came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import PrivateAttr, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from tasker.config.circuits import CircuitBreakersSettings
from tasker.config.relations import violations
from tasker.config.sections import (
    DatabaseSettings,
    EngineSettings,
    ExecutorPools,
    OrchestrationSettings,
    PgmqSettings,
    QueryCacheSettings,
    Section,
    SystemSettings,
    WebSettings,
)
from tasker.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from.

    Attributes:
        place: a file, an environment variable, or how the default came about; as shown to people.
        line: line in the file, where there is one.
        value: the value given there.
    """

    place: str
    line: int | None = None
    value: Any = None

    def __str__(self) -> str:
        return self.place if self.line is None else f"{self.place}:{self.line}"


class Settings(Section):
    """All settings. Made by ``ConfigManager.load()``; ``Settings()`` has the defaults.

    Raises:
        pydantic.ValidationError: a value is wrong, or two contradict each other (``ConfigManager`` says it better).
    """

    environment: str = "development"
    orchestration: OrchestrationSettings = OrchestrationSettings()
    executor_pools: ExecutorPools = ExecutorPools()
    circuit_breakers: CircuitBreakersSettings = CircuitBreakersSettings()
    database: DatabaseSettings = DatabaseSettings()
    engine: EngineSettings = EngineSettings()
    pgmq: PgmqSettings = PgmqSettings()
    query_cache: QueryCacheSettings = QueryCacheSettings()
    system: SystemSettings = SystemSettings()
    web: WebSettings = WebSettings()

    _history: dict[str, tuple[Origin, ...]] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _check_relations(self) -> Self:
        found = list(violations(self))
        if found:
            text = "; ".join(f"{violation.keys[0]} {violation.message}" for violation in found)
            raise PydanticCustomError("tasker_relations", "{text}", {"text": text, "violations": found})
        return self

    def get(self, key: str) -> Any:
        """The value of the setting with the dotted name ``key``.

        Raises:
            KeyError: there is no such setting.
        """
        value: Any = self
        for name in key.split("."):
            if not isinstance(value, Section):
                raise KeyError(key)
            value = value.member(name)
        return value

    def origin(self, key: str) -> Origin:
        """Where the value of ``key`` came from: ``file:line``, an environment variable, or a default.

        Raises:
            KeyError: there is no such setting.
        """
        return self.history(key)[-1]

    def history(self, key: str) -> tuple[Origin, ...]:
        """Every place that gives ``key`` a value, the one that counts last.

        Raises:
            KeyError: there is no such setting.
        """
        from tasker.config.keys import find_key

        known = find_key(key)
        if known is None:
            raise KeyError(key)
        given = self._history.get(key)
        if given:
            return given
        return (Origin("default" if known.derived is None else f"default ({known.derived})", value=self.get(key)),)

    def flat(self, *, masked: bool = True) -> dict[str, Any]:
        """Every setting by its dotted name.

        Args:
            masked: leave passwords out.
        """
        from tasker.config.keys import keys_of, mask

        keys = keys_of(self)
        values = {name: self.get(name) for name in keys}
        if masked:
            for name, key in keys.items():
                if key.secret and values[name] is not None:
                    values[name] = mask(values[name])
        return values

    def with_database_url(self, url: str, *, place: str = "argument") -> Settings:
        """The same settings for another database; what derives from its URL is derived anew.

        Args:
            url: of the other database.
            place: what ``origin("database.url")`` says.

        Raises:
            ConfigurationError: it is no PostgreSQL URL.
        """
        from tasker.config.keys import mask

        values = self.model_dump()
        values["database"]["url"] = url
        if not self._history.get("database.migrate_on_start"):
            del values["database"]["migrate_on_start"]
        try:
            changed = Settings.model_validate(values)
        except ValidationError:  # shows the password
            raise ConfigurationError(
                f"{mask(url)} is not a PostgreSQL URL",
                hint="it looks like postgresql://user:password@host:5432/database",
                field="database.url",
            ) from None
        changed.remember({**self._history, "database.url": (Origin(place, value=url),)})
        return changed

    def remember(self, history: Mapping[str, tuple[Origin, ...]]) -> None:
        """Take down where the values came from; called once, by whoever loaded them."""
        self._history = dict(history)
