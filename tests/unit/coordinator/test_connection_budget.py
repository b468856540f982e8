from __future__ import annotations

import logging
from typing import Any

import pytest

from tasker.config.settings import Settings
from tasker.coordinator.connection_budget import ConnectionBudget, ConnectionDemand
from tasker.errors import ConfigurationError

pytestmark = pytest.mark.config


def settings(validation: str = "degraded", **changes: Any) -> Settings:
    """Four step executors and two loops of orchestration executors, each with a pool and a listener; a server."""
    return Settings.model_validate(
        {
            "database": {"resource_validation": validation, "pool": {"max_connections": 5}},
            "executor_pools": {
                "step_executor": {"max_executors": 4},
                "task_claimer": {"max_executors": 2},
            },
            "web": {"database_pool": {"max_connections": 2}},
            **changes,
        }
    )


def test_the_sum_is_that_of_all_executors_their_listeners_the_web_server_and_one_client() -> None:
    budget = ConnectionBudget.of(settings(), max_connections=100)
    assert budget.demanded == (4 + 2 + 1) * (5 + 1) + 2
    assert budget.available == 97
    assert budget.fits
    assert budget.enforce() is None


def test_orchestration_kinds_share_a_loop_so_the_most_numerous_one_counts() -> None:
    pools = {kind: {"max_executors": 3} for kind in ("task_claimer", "task_finalizer", "step_enqueuer")}
    budget = ConnectionBudget.of(settings(executor_pools=pools), max_connections=100)
    (loops,) = (demand for demand in budget.demands if demand.holder == "orchestration executors")
    assert loops.processes == 3


def test_a_broker_on_the_same_database_and_programs_beside_count_and_silent_processes_listen_to_nothing() -> None:
    budget = ConnectionBudget.of(
        settings(pgmq={"notify_enabled": False}),
        max_connections=100,
        transport_connections=2,
        others=[ConnectionDemand("the shop", 3, 4)],
    )
    assert budget.demanded == (4 + 2 + 1) * (5 + 2) + 2 + 3 * 4


def test_too_many_is_an_error_that_adds_up_and_says_what_to_change() -> None:
    budget = ConnectionBudget.of(settings("fail_fast"), max_connections=40)
    with pytest.raises(ConfigurationError) as caught:
        budget.enforce()
    assert caught.value.message == (
        "up to 44 connections can be wanted, and the database has 37 for them (step executors: 4 × (5 + 1) = 24;"
        " orchestration executors: 2 × (5 + 1) = 12; web server: 1 × (2 + 0) = 2; clients: 1 × (5 + 1) = 6)"
    )
    assert caught.value.hint == (
        "lower database.pool.max_connections to 4, or executor_pools.*.max_executors,"
        " or raise the server's max_connections"
    )


def test_too_many_caps_the_pools_at_the_largest_size_that_fits(caplog: pytest.LogCaptureFixture) -> None:
    budget = ConnectionBudget.of(settings("degraded"), max_connections=40)
    with caplog.at_level(logging.WARNING):
        assert budget.enforce() == 4
    assert "pools are capped at 4, which fits" in caplog.text
    capped = settings("fail_fast", database={"pool": {"max_connections": 4}})
    assert ConnectionBudget.of(capped, max_connections=40).fits


def test_a_cap_leaves_smaller_pools_of_others_as_they_are() -> None:
    budget = ConnectionBudget((ConnectionDemand("big", 2, 10), ConnectionDemand("small", 5, 2)), 20, "degraded")
    assert budget.enforce() == 5


def test_no_pool_is_capped_below_work_and_heartbeat(caplog: pytest.LogCaptureFixture) -> None:
    budget = ConnectionBudget.of(settings("degraded"), max_connections=10)
    with caplog.at_level(logging.WARNING):
        assert budget.enforce() == 2
    assert "which is still too many" in caplog.text
    assert "lower executor_pools.*.max_executors" in caplog.text


def test_too_many_is_a_warning_and_nothing_else_where_best_effort_will_do(caplog: pytest.LogCaptureFixture) -> None:
    budget = ConnectionBudget.of(settings("best_effort"), max_connections=40)
    with caplog.at_level(logging.WARNING):
        assert budget.enforce() is None
    assert "up to 44 connections can be wanted" in caplog.text


def test_the_shipped_settings_fit_a_server_as_it_comes() -> None:
    assert ConnectionBudget.of(Settings(), max_connections=100, transport_connections=2).fits
