"""Commands that fail: how they are called, their exit code and what they print."""

from __future__ import annotations

from dataclasses import dataclass

from tests.integration.bad_input.shop import NOBODY


@dataclass(frozen=True)
class BadCommand:
    """A command that fails.

    Attributes:
        arguments: after ``tasker``.
        exit_code: 1 failed, 2 called wrongly.
        says: the last lines of its output.
    """

    arguments: tuple[str, ...]
    exit_code: int
    says: str


BAD_COMMANDS: list[BadCommand] = [
    BadCommand(
        ("task", "create", "shop", "order", "{oops"),
        1,
        "Error: context is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)\n"
        "Hint: quote it for the shell: '{\"order_id\": 42}'",
    ),
    BadCommand(
        ("task", "create", "shop", "order", "--run-at", "tomorrow"),
        1,
        "Error: 'tomorrow' is no time\nHint: write it like 2027-01-31T08:00:00+01:00",
    ),
    BadCommand(
        ("task", "create", "shop", "odrer"),
        1,
        "Error: request 0: no workflow shop/odrer is registered\n"
        "Hint: register it first (tasker template register FILE), or look what is there (tasker template list)",
    ),
    BadCommand(("task", "show", "one"), 2, "Error: Invalid value for 'UUID': 'one' is not a valid UUID."),
    BadCommand(
        ("task", "cancel", str(NOBODY)),
        1,
        f"Error: there is no task {NOBODY}\n"
        "Hint: if it was created in a transaction, it is there once that has committed",
    ),
    BadCommand(
        ("task", "list", "--state", "running"),
        2,
        "Error: Invalid value for '--state': 'running' is not one of 'pending', 'in_progress', 'paused', 'complete', "
        "'error', 'cancelled', 'resolved_manually'.",
    ),
    BadCommand(
        ("queue", "peek", "nowhere"), 1, "Error: there is no queue 'nowhere'\nHint: create it with create_queue()"
    ),
    BadCommand(
        ("template", "show", "shop"),
        1,
        "Error: 'shop' names no workflow\nHint: write namespace/name or namespace/name:version; `tasker template list` "
        "shows what is registered",
    ),
    BadCommand(
        ("config", "explain", "orchestration.spare_slot"),
        1,
        "Error: there is no setting orchestration.spare_slot\nHint: did you mean orchestration.spare_slots?",
    ),
]
