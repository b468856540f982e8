"""The site that the conformance suite works on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conformance.kit import Site, commands


@pytest.fixture(scope="session")
def partner_commands() -> tuple[list[str], list[str]]:
    return commands()


@pytest.fixture
def site(partner_commands: tuple[list[str], list[str]], tasker_database_url: str, tmp_path: Path) -> Iterator[Site]:
    site = Site(tasker_database_url, tmp_path, *partner_commands)
    yield site
    # Shown by pytest with a test that failed.
    print(site.report())
    site.close()
