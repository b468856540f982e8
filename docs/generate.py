"""Makes the pages of the reference that say what the code says: ``make docs``, or ``python -m docs.generate``.

Each page is one module of ``docs/pages``. Tests fail when a page is not what this makes of the code.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from docs.pages import bad_input, client, commands, contract, metrics, python_api, settings, states, verification

REFERENCE = Path(__file__).parent / "reference"

PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings.make,
    "commands.md": commands.make,
    "metrics.md": metrics.make,
    "states.md": states.make,
    "client.md": client.make,
    "python_api.md": python_api.make,
    "verification.md": verification.make,
}
"""Pages that need no database."""

PAGES_WITH_A_DATABASE: dict[str, Callable[[Callable[[], str]], str]] = {
    "bad_input.md": bad_input.make,
    "contract.md": contract.make,
}
"""Pages for which something is run; they are given what makes a fresh, migrated database and returns its URL."""


def main() -> None:
    """Write all pages, and say which ones changed."""
    from tasker.testing.servers import embedded_databases

    logging.getLogger("tasker").setLevel(logging.CRITICAL)  # mistakes are made on purpose
    made = {name: make() for name, make in PAGES.items()}
    with embedded_databases() as databases:
        made |= {name: make(databases.create) for name, make in PAGES_WITH_A_DATABASE.items()}
    for name, text in made.items():
        path = REFERENCE / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"docs/reference/{name}\n")


if __name__ == "__main__":
    main()
