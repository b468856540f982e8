"""Nothing is left of readers and callers that come and go, however they go."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.transport_leaks import look
from tests.e2e.transport_support import Broker


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("calls", "restarts"),
    [(200, 10), pytest.param(2_000, 200, marks=[pytest.mark.long, pytest.mark.timeout(600)])],
    ids=["short", "long"],
)
def test_remote_control_and_readers_that_come_and_go_leave_all_as_it_was(
    tasker_database_url: str, tmp_path: Path, calls: int, restarts: int
) -> None:
    broker = Broker(tasker_database_url, tmp_path)
    try:
        report = look(broker, calls, restarts)
    finally:
        broker.close()
    assert report.leaks == {}, report.text()
