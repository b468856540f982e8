"""The settings of circuits: when one opens and closes, for each component and external system."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict, Field

from tasker.config.sections import Seconds, Section


class CircuitSettings(Section):
    """When a circuit opens and closes."""

    failure_threshold: int = Field(5, ge=1, le=1_000_000, description="Failures in a row that open it.")
    timeout_seconds: Seconds = Field(30, description="How long it stays open before one call may try again.")
    success_threshold: int = Field(
        2, ge=1, le=1_000_000, description="Successes in a row of such calls that close it again."
    )


class OwnCircuitSettings(CircuitSettings):
    """The circuits of what stores all others; they are kept in the memory of each process."""

    timeout_seconds: Seconds = Field(2, description="How long it stays open before one call may try again.")
    success_threshold: int = Field(
        1, ge=1, le=1_000_000, description="Successes in a row of such calls that close it again."
    )


class SystemCircuitSettings(Section):
    """One external system, by the name that steps give in `system_dependency`."""

    failure_threshold: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Failures in a row that open it.",
        json_schema_extra={"derived": "as default_config says"},
    )
    timeout_seconds: float | None = Field(
        None,
        gt=0,
        le=604_800,
        description="How long it stays open before one call may try again.",
        json_schema_extra={"derived": "as default_config says"},
    )
    success_threshold: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Successes in a row of such calls that close it again.",
        json_schema_extra={"derived": "as default_config says"},
    )


class ComponentConfigs(Section):
    """One table for each component or external system that needs other numbers."""

    model_config = ConfigDict(extra="allow")
    free: ClassVar[type[Section] | None] = SystemCircuitSettings
    __pydantic_extra__: dict[str, SystemCircuitSettings] = Field(init=False)

    database: OwnCircuitSettings = OwnCircuitSettings()
    pgmq: OwnCircuitSettings = OwnCircuitSettings()

    @property
    def systems(self) -> dict[str, SystemCircuitSettings]:
        """The tables of external systems, by name."""
        return dict(self.__pydantic_extra__)

    def member(self, name: str) -> object:
        """A table; of a system that has none, one in which all is unset."""
        if name in type(self).model_fields:
            return super().member(name)
        return self.systems.get(name) or SystemCircuitSettings()


class CircuitLimits(Section):
    """What holds for all circuits together."""

    max_circuit_breakers: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Most circuits of external systems there may be, and so most values of labels of metrics. Calls of"
        " further systems are not guarded.",
    )
    auto_create_enabled: bool = Field(
        True,
        description="Make a circuit for each system that a step names or calls; otherwise only systems with a table in"
        " component_configs have one.",
    )


class CircuitBreakersSettings(Section):
    """Circuits: a system that fails again and again is left alone for a while."""

    enabled: bool = Field(True, description="Whether circuits open by themselves; those opened by hand always hold.")
    default_config: CircuitSettings = CircuitSettings()
    component_configs: ComponentConfigs = ComponentConfigs()
    global_settings: CircuitLimits = CircuitLimits()
