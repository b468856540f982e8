"""``tasker events``: domain events that workflows published, to look at and to consume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tasker.cli.commands import group
from tasker.cli.output import Output
from tasker.cli.values import open_client

if TYPE_CHECKING:
    from tasker.handlers.events import DomainEvent

_namespace = click.argument("namespace")
_pattern = click.argument("pattern", default="*")


@group()
def events() -> None:
    """Domain events: look at those that come, consume them."""


@events.command("tail")
@_namespace
@_pattern
@click.option("--from-start", is_flag=True, help="Begin with the oldest that is there, not with the next.")
@click.option("--no-follow", is_flag=True, help="End after the last one that is there.")
def tail(namespace: str, pattern: str, from_start: bool, no_follow: bool) -> None:
    """Show the durable events of NAMESPACE whose names match PATTERN (* stands for anything), and take none.

    Events that a consumer took before they could be shown are missed.
    """
    output = Output()
    with open_client() as client:
        for event in client.tail_events(namespace, pattern, from_start=from_start or no_follow, follow=not no_follow):
            _show(output, event)


@events.command("consume")
@_namespace
@_pattern
@click.option(
    "--handler",
    "handler_name",
    metavar="NAME",
    help="Function that handles each, as package.module:name; without one they are printed.",
)
@click.option("--until-empty", is_flag=True, help="End when there are none.")
@click.option(
    "--batch-size", type=click.IntRange(1, 1000), default=100, show_default=True, help="Most events read at once."
)
@click.option(
    "--visibility-timeout",
    type=click.FloatRange(1, 604_800),
    metavar="SECONDS",
    help="An event that was read and not handled shows again after this; pgmq.visibility_timeout_seconds otherwise.",
)
def consume(
    namespace: str,
    pattern: str,
    handler_name: str | None,
    until_empty: bool,
    batch_size: int,
    visibility_timeout: float | None,
) -> None:
    """Handle the durable events of NAMESPACE whose names match PATTERN (* stands for anything), and delete them.

    At least once: an event goes when its handler has returned. All consumers of a namespace share its events.
    """
    output = Output()
    handler: Any = None
    if handler_name is not None:
        from tasker.config.manager import ConfigManager
        from tasker.handlers.registry import HandlerRegistry

        handler = HandlerRegistry(ConfigManager.load()).find_object(handler_name)
    with open_client() as client:
        handled = client.consume_events(
            namespace,
            pattern,
            handler or (lambda event: _show(output, event)),
            batch_size=batch_size,
            visibility_timeout_seconds=visibility_timeout,
            until_empty=until_empty,
        )
    output.note(f"{handled} events handled.")


def _show(output: Output, event: DomainEvent) -> None:
    from tasker.cli.output import to_json

    about = event.task_uuid if event.step is None else f"{event.task_uuid} {event.step}"
    text = f"{event.at:%Y-%m-%d %H:%M:%S} {event.name} {event.namespace}/{event.task} {about}"
    output.event(f"{text} {to_json(event.payload)}", event.to_json())
