"""Each broker, for one module of tests after the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasker.database.scratch import ScratchDatabases
from tests.e2e.brokers.kinds import BROKERS, Broker


@pytest.fixture(scope="module", params=BROKERS)
def broker(request: pytest.FixtureRequest, tasker_server: ScratchDatabases) -> Iterator[Broker]:
    """A place of the module's own on each broker, and Tasker's database; skips where the broker's server is missing."""
    url = tasker_server.create()
    try:
        made = BROKERS[request.param](url)
        try:
            yield made
        finally:
            made.close()
    finally:
        tasker_server.drop(url)
