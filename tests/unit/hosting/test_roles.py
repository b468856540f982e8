"""What ``-Q`` means."""

from __future__ import annotations

import pytest

from tasker.executors.executor import ORCHESTRATION_KINDS, ExecutorKind
from tasker.hosting.roles import Role, roles_of

NAMESPACES = {"fulfillment", "inventory", "payments"}
ORCHESTRATION = Role("orchestration")


def test_queues_that_name_namespaces_get_step_executors_that_serve_all_of_them() -> None:
    role = Role("step_executor", ("fulfillment", "inventory"))
    assert roles_of(["inventory", "fulfillment"], NAMESPACES, 4) == (role,) * 4


def test_the_orchestration_queue_gets_loops_over_all_orchestration_kinds() -> None:
    assert roles_of(["orchestration"], NAMESPACES, 3) == (ORCHESTRATION,) * 3
    assert ORCHESTRATION.kinds == ORCHESTRATION_KINDS


def test_a_worker_of_plain_celery_queues_hosts_nothing() -> None:
    assert roles_of(["celery", "emails"], NAMESPACES, 4) == ()


def test_plain_queues_beside_a_namespace_are_nobodys_steps() -> None:
    assert roles_of(["emails", "payments"], NAMESPACES, 1) == (Role("step_executor", ("payments",)),)


@pytest.mark.parametrize(("slots", "orchestration"), [(2, 1), (3, 1), (4, 1), (8, 2), (12, 3)])
def test_a_worker_of_both_sorts_gives_a_quarter_of_its_slots_to_orchestration(slots: int, orchestration: int) -> None:
    roles = roles_of(["orchestration", "payments"], NAMESPACES, slots)
    assert roles == (ORCHESTRATION,) * orchestration + (Role("step_executor", ("payments",)),) * (slots - orchestration)


def test_a_worker_of_both_sorts_with_one_slot_does_everything_in_one_loop() -> None:
    (role,) = roles_of(["orchestration", "payments"], NAMESPACES, 1)
    assert set(role.kinds) == set(ExecutorKind)
    assert role.namespaces == ("payments",)


def test_periodic_orchestration_needs_no_slots() -> None:
    assert roles_of(["orchestration"], NAMESPACES, 4, periodic_orchestration=True) == ()
    assert (
        roles_of(["orchestration", "payments"], NAMESPACES, 2, periodic_orchestration=True)
        == (Role("step_executor", ("payments",)),) * 2
    )


def test_a_role_of_an_unknown_kind_is_refused_when_it_is_used() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        _ = Role("nonsense").kinds
