"""Domain events as Python declares them, and which of them an outcome calls for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tasker.workflows.declared import callable_path, remember

if TYPE_CHECKING:
    from tasker.workflows.model import EventDeclaration

Condition = Literal["success", "failure", "retryable_failure", "permanent_failure", "always"]
Delivery = Literal["durable", "fast", "broadcast"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """A domain event that a step or a workflow publishes.

    Attributes:
        name: what it is called, such as ``order.paid``; subscribers find it by patterns over it.
        condition: which outcomes it tells of.
        schema: JSON Schema that its payload must fit.
        delivery: ``durable`` (stored in the transaction that records the outcome), ``fast`` (handed to subscribers of
            the worker's own process, best effort) or ``broadcast`` (both).
        publisher: makes the payload: a function that takes an ``EventDraft``, or its name.
        description: for readers.
    """

    name: str
    condition: Condition = "success"
    schema: Mapping[str, Any] | None = None
    delivery: Delivery = "durable"
    publisher: Callable[..., Any] | str | None = None
    description: str | None = None

    def to_document(self) -> dict[str, Any]:
        """The event as a template writes it.

        Raises:
            ValueError: the publisher has no name that a worker could import it by.
        """
        publisher = self.publisher
        if publisher is not None and not isinstance(publisher, str):
            path = callable_path(publisher)
            remember(path, publisher)
            publisher = path
        fields = {
            "name": self.name,
            "description": self.description,
            # What is left to the format's defaults stays out, so that it makes no difference where it was written.
            "condition": None if self.condition == "success" else self.condition,
            "schema": None if self.schema is None else dict(self.schema),
            "delivery_mode": None if self.delivery == "durable" else self.delivery,
            "publisher": publisher,
        }
        return {name: value for name, value in fields.items() if value is not None}


def documents(events: Iterable[Event | str]) -> list[Any]:
    """Events as a template writes them."""
    return [event.to_document() if isinstance(event, Event) else event for event in events]


def definitions(declared: Iterable[EventDeclaration]) -> list[dict[str, Any]]:
    """Events as they are registered: every default resolved."""
    return [
        {
            "name": event.name,
            "condition": event.condition or "success",
            "delivery": event.delivery_mode or "durable",
            "publisher": event.publisher,
            "schema": event.schema_,
        }
        for event in declared
    ]


def calls_for(declared: str, happened: str) -> bool:
    """Whether an event with the condition ``declared`` tells of an outcome.

    Args:
        declared: the event's condition.
        happened: ``success``, ``retryable_failure``, ``permanent_failure``; of a task also the state that an operator
            gave it.
    """
    return declared in ("always", happened) or (declared == "failure" and happened.endswith("_failure"))
