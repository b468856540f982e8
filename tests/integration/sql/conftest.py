"""The SQL core on every server there is; after each test, its invariants hold."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sql_kit import Core, lost_messages


@pytest.fixture
def core(any_database_url: str) -> Iterator[Core]:
    driver = Core(any_database_url)
    try:
        yield driver
        driver.connection.rollback()
        assert driver.broken_rules() == []
        assert lost_messages(driver) == []
    finally:
        driver.close()
