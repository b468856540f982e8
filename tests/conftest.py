"""For all tests: each gets the marker of its folder's kind, and CI skips nothing."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

# What it compares is told in full when it differs, as in a test's own module.
pytest.register_assert_rewrite("tests.sql_kit")

# Real Celery workers: the fixtures ``cluster`` and ``make_cluster``, for e2e and for workflows by their names.
pytest_plugins = ["tests.e2e.fixtures"]

KINDS = frozenset({"unit", "integration", "races", "chaos", "e2e", "web"})
IN_CI = os.environ.get("CI", "").lower() == "true"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    for item in items:
        kind = item.path.relative_to(tests).parts[0]
        if kind in KINDS:
            item.add_marker(kind)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skips(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skips(report)
    return report


def _refuse_skips(report: Any) -> None:
    """A machine of ours has all that a test may need, so a skip there hides something: make it a failure."""
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}\nNothing is skipped where CI=true: install or start what the test needs (.ci/run)."
