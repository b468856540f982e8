"""A worker in another language does its part, by the SQL contract alone; see README.md for how to test one's own."""

from __future__ import annotations

import functools
import signal
from collections import Counter
from typing import Any

import pytest

from tasker.database import functions
from tests.e2e.conformance.kit import PARTNER, Site, step
from tests.proxies import AnswerLosingProxy
from tests.waiting import wait_until

pytestmark = pytest.mark.orchestration

NEVER = "3600"
"""Seconds between two looks at the queues: whoever finds work all the same was told of it."""


# -- running steps ----------------------------------------------------------------------------------------------------


def test_steps_in_two_languages_make_one_graph(site: Site) -> None:
    def total(ctx: Any) -> int:
        return sum(result["value"] for result in ctx.results.values())

    site.core.handlers.register("inhouse.add", lambda ctx: {"value": total(ctx) + ctx.settings["add"]})
    site.core.handlers.register("inhouse.negate", lambda ctx: {"value": -total(ctx)})
    site.register(
        step("start", "conformance.start"),
        step("here", "inhouse.add", "start", initialization={"add": 10}),
        step("there", "conformance.add", "start", initialization={"add": 100}),
        step("there_again", "conformance.multiply", "there", initialization={"by": 3}),
        step("both", "conformance.add", "here", "there_again"),
        step("end", "inhouse.negate", "both", "start"),
    )
    site.work_in_house()
    site.partner(TASKER_POLL_SECONDS=NEVER)
    site.partner(TASKER_POLL_SECONDS=NEVER)
    tasks = site.create(*range(1, 21))

    assert set(site.wait_for(*tasks)) == {"complete"}
    for n, task in enumerate(tasks, 1):
        results = {name: result["value"] for name, result in site.results(task).items()}
        both = (n + 10) + (n + 100) * 3
        assert results == {
            "start": n, "here": n + 10, "there": n + 100, "there_again": (n + 100) * 3, "both": both, "end": -both - n,
        }  # fmt: skip
    assert site.times("complete") == 6 * 20
    assert [partner.terminate() for partner in site.partners] == [0, 0]
    site.check()


def test_it_works_under_the_worker_role_and_no_more(site: Site) -> None:
    partner = site.partner()
    logins = site.sql.rows(
        """SELECT DISTINCT r.rolname, r.rolsuper, pg_has_role(r.oid, 'tasker_worker', 'USAGE'),
                  pg_has_role(r.oid, 'tasker_operator', 'USAGE')
           FROM pg_stat_activity AS a JOIN pg_roles AS r ON r.oid = a.usesysid
           WHERE a.datname = current_database() AND r.rolname LIKE 'tasker_test_%%'"""
    )
    assert [(is_super, worker, operator) for _, is_super, worker, operator in logins] == [(False, True, False)]
    (kind, queues, pid) = site.sql.rows("SELECT kind, queues, pid FROM tasker.executors")[0]
    assert (kind, queues) == ("step_executor", [f"{PARTNER}_queue"])
    assert pid is None or pid == partner.process.pid


def test_an_idle_worker_is_woken_by_a_notification(site: Site) -> None:
    site.register(step("start", "conformance.start"))
    site.partner(TASKER_POLL_SECONDS=NEVER)
    for n in range(3):
        wait_until(lambda: site.sql.one("SELECT idle FROM tasker.executors"), "the worker says that it is idle")
        assert site.wait_for(*site.create(n)) == ["complete"]


def test_a_step_that_fails_runs_again_until_it_succeeds_or_may_not(site: Site) -> None:
    site.register(
        step("thrice", "conformance.fail_until", initialization={"attempt": 3}, retry={"max_attempts": 3}), name="mends"
    )
    site.register(
        step("twice", "conformance.fail_until", initialization={"attempt": 3}, retry={"max_attempts": 2}), name="fails"
    )
    site.register(step("once", "conformance.refuse"), step("after", "conformance.add", "once"), name="refuses")
    site.register(step("mistake", "conformance.crash", retry={"max_attempts": 2}), name="crashes")
    site.register(step("nobody", "conformance.unheard_of", retry={"max_attempts": 1}), name="unknown")
    site.partner()
    outcomes = {}
    for name in ("mends", "fails", "refuses", "crashes", "unknown"):
        (task,) = site.create(1, name=name)
        (state,) = site.wait_for(task)
        first = next(iter(site.sql.steps(task).values()))
        outcomes[name] = (state, first["attempts"], first["error"] and first["error"]["retryable"])

    assert outcomes == {
        "mends": ("complete", 3, None),
        "fails": ("error", 2, True),
        "refuses": ("error", 1, False),
        "crashes": ("error", 2, True),
        "unknown": ("error", 1, True),
    }
    assert site.sql.one(
        "SELECT error->>'type' FROM tasker.workflow_steps WHERE NOT (error->>'retryable')::boolean"
    ) == ("refused")
    assert site.times("in_progress") == 3 + 2 + 1 + 2 + 1


def test_a_step_past_its_timeout_is_reported_and_its_late_result_is_not(site: Site) -> None:
    gate = site.gate()
    site.register(
        step(
            "slow",
            "conformance.wait_deaf",
            initialization=gate.initialization,
            timeout_seconds=1,
            retry={"max_attempts": 1},
        )
    )
    partner = site.partner()
    (task,) = site.create(1)
    assert site.wait_for(task) == ["error"]
    gate.open()
    assert partner.terminate() == 0

    error = site.sql.steps(task)["slow"]["error"]
    assert (error["type"], error["timeout"]) == ("timeout", True)
    assert site.times("complete") == 0
    site.check()


def test_a_result_that_cannot_be_stored_harms_its_own_step_alone(site: Site) -> None:
    site.register(step("good", "conformance.start"), name="good")
    site.register(step("bad", "conformance.unstorable"), name="unstorable")
    site.register(step("bad", "conformance.large", initialization={"bytes": 1_100_000}), name="large")
    # Otherwise what is unknown is claimed one at a time.
    site.sql.rows_affected("UPDATE tasker.named_steps SET expected_ms = 0.01")
    good = [*site.create(1, 2, 3, name="good")]
    bad = [*site.create(1, name="unstorable"), *site.create(1, name="large")]
    site.partner()

    assert site.wait_for(*good, *bad) == ["complete"] * 3 + ["error"] * 2
    errors = [site.sql.steps(task)["bad"]["error"] for task in bad]
    assert [(error["type"], error["retryable"]) for error in errors] == [
        ("result_not_storable", False),
        ("result_too_large", False),
    ]


def test_parents_results_too_large_for_a_claim_are_read_in_pages(site: Site) -> None:
    parts = [f"part_{n}" for n in range(12)]
    site.register(
        *(step(name, "conformance.large", initialization={"bytes": 1_000_000}) for name in parts),
        step("sum", "conformance.add", *parts),
    )
    site.partner()
    (task,) = site.create(1)
    assert site.wait_for(task) == ["complete"]
    assert site.results(task)["sum"] == {"value": 12}


# -- what may go wrong ------------------------------------------------------------------------------------------------


def test_steps_of_a_killed_worker_are_run_by_another(site: Site) -> None:
    gate = site.gate()
    site.register(
        step("start", "conformance.start"),
        step("wait", "conformance.wait", "start", initialization=gate.initialization),
    )
    first = site.partner()
    tasks = site.create(1, 2, 3)
    gate.wait_for(3)
    first.kill()
    second = site.partner()
    gate.open()
    site.lose(first)

    assert site.wait_for(*tasks) == ["complete"] * 3
    waits = [site.sql.steps(task)["wait"] for task in tasks]
    assert {(row["attempts"], row["losses"], row["fence"]) for row in waits} == {(1, 1, 2)}
    assert [row["results"]["value"] for row in waits] == [1, 2, 3]
    assert second.terminate() == 0
    site.check()


def test_a_worker_told_to_stop_finishes_what_runs(site: Site) -> None:
    gate = site.gate()
    site.register(step("wait", "conformance.wait", initialization=gate.initialization))
    partner = site.partner(TASKER_GRACE_SECONDS="60")
    tasks = site.create(1, 2)
    gate.wait_for(2)
    partner.signal(signal.SIGTERM)
    gate.open()

    assert partner.wait() == 0
    assert site.wait_for(*tasks) == ["complete"] * 2
    assert site.sql.one("SELECT count(*) FROM tasker.executors") == 0
    site.check()


@pytest.mark.parametrize("handler", ["conformance.wait", "conformance.wait_deaf"])
def test_a_worker_told_to_stop_gives_back_what_takes_too_long(site: Site, handler: str) -> None:
    gate = site.gate()
    site.register(step("wait", handler, initialization=gate.initialization))
    partner = site.partner(TASKER_GRACE_SECONDS="0.3")
    tasks = site.create(1, 2)
    gate.wait_for(2)
    assert partner.terminate() == 0

    rows = [site.sql.steps(task)["wait"] for task in tasks]
    assert {(row["state"], row["attempts"], row["losses"]) for row in rows} == {("enqueued", 0, 0)}
    assert site.sql.one("SELECT count(*) FROM tasker.executors") == 0
    site.check()

    gate.open()
    site.partner()
    assert site.wait_for(*tasks) == ["complete"] * 2
    assert {site.sql.steps(task)["wait"]["attempts"] for task in tasks} == {1}


def test_a_step_that_may_not_run_twice_is_marked_before_it_starts_and_never_given_back(site: Site) -> None:
    gates = [site.gate(name) for name in ("stopped", "killed")]
    for name, gate in zip(("stopped", "killed"), gates, strict=True):
        once = {"retryable": False}
        site.register(step("once", "conformance.wait", initialization=gate.initialization, retry=once), name=name)
    stopped = site.partner(TASKER_GRACE_SECONDS="0.3")
    (first,) = site.create(1, name="stopped")
    gates[0].wait_for(1)
    assert site.sql.steps(first)["once"]["start_marked_at"] is not None
    assert stopped.terminate() == 0

    killed = site.partner()
    (second,) = site.create(1, name="killed")
    gates[1].wait_for(1)
    killed.kill()
    site.lose(killed)

    assert site.wait_for(first, second) == ["error", "error"]
    assert {site.sql.steps(task)["once"]["error"]["type"] for task in (first, second)} == {"outcome_unknown"}
    site.check()


def test_a_worker_that_froze_finds_itself_lost_and_begins_anew(site: Site) -> None:
    gate = site.gate()
    site.register(step("wait", "conformance.wait_deaf", initialization=gate.initialization))
    frozen = site.partner()
    tasks = site.create(1, 2)
    gate.wait_for(2)
    (executor,) = site.executors(frozen)
    frozen.signal(signal.SIGSTOP)
    site.lose(frozen)
    other = site.partner()
    gate.wait_for(4)
    gate.open()
    assert site.wait_for(*tasks) == ["complete"] * 2
    assert other.terminate() == 0

    frozen.signal(signal.SIGCONT)
    wait_until(lambda: site.executors(frozen) not in ([], [executor]), "it registers under another name")
    assert site.wait_for(*site.create(3)) == ["complete"]
    assert site.times("complete") == 3
    assert {site.sql.steps(task)["wait"]["losses"] for task in tasks} == {1}
    assert frozen.terminate() == 0
    site.check()


@pytest.mark.parametrize("handler", ["conformance.wait", "conformance.wait_deaf"])
def test_the_result_of_a_cancelled_step_is_refused(site: Site, handler: str) -> None:
    gate = site.gate()
    site.register(step("wait", handler, initialization=gate.initialization), step("after", "conformance.add", "wait"))
    partner = site.partner()
    (task,) = site.create(1)
    gate.wait_for(1)
    site.client.cancel(task)
    # Heard by its heartbeat, it lets go of the receipt.
    gate.open()
    assert partner.terminate() == 0

    assert set(site.sql.states(task).values()) == {"cancelled"}
    assert site.times("complete") == 0
    site.check()


def test_the_result_of_a_step_that_was_reset_is_refused(site: Site) -> None:
    gate = site.gate()
    site.register(step("wait", "conformance.wait_deaf", initialization=gate.initialization))
    site.partner()
    (task,) = site.create(1)
    gate.wait_for(1)
    functions.run(site.sql.connection, functions.reset_step({"task_uuid": task, "step": "wait", "by": "operator"}))
    gate.wait_for(2)
    gate.open()

    assert site.wait_for(task) == ["complete"]
    assert site.partners[0].terminate() == 0
    assert site.times("complete") == 1
    assert site.sql.steps(task)["wait"]["fence"] == 2
    site.check()


@pytest.mark.parametrize("function", [b"claim_steps", b"complete_steps", b"release_steps", b"register_executor"])
def test_a_call_whose_answer_is_lost_after_its_commit_counts_once(site: Site, function: bytes) -> None:
    gate = site.gate()
    site.register(
        *(step(f"part_{n}", "conformance.start") for n in range(4)),
        step("join", "conformance.add", *(f"part_{n}" for n in range(4))),
        step("wait", "conformance.wait", "join", initialization=gate.initialization),
    )
    tasks = site.create(1, 2, 3)
    # An empty claim leaves no receipt: the first that finds something is there when it starts.
    with AnswerLosingProxy(site.worker_url, lambda message: b"tasker." + function in message) as proxy:
        partner = site.partner(url=proxy.url, TASKER_GRACE_SECONDS="0.3")
        gate.wait_for(3)
        assert partner.terminate() == 0
        assert proxy.lost == 1

    assert Counter(state for task in tasks for state in site.sql.states(task).values()) == {
        "complete": 15,
        "enqueued": 3,
    }
    assert site.sql.rows("SELECT DISTINCT attempts, losses FROM tasker.workflow_steps WHERE state = 'complete'") == [
        (1, 0)
    ]
    assert site.times("complete") == 15
    assert [site.results(task)["join"]["value"] for task in tasks] == [4, 8, 12]
    # None was claimed twice, to be run twice.
    assert site.times("in_progress") == 18
    site.check()


def test_a_worker_whose_connections_are_cut_goes_on(site: Site) -> None:
    site.register(
        step("start", "conformance.start"),
        step("add", "conformance.add", "start"),
        step("end", "conformance.add", "add"),
    )
    partner = site.partner()
    tasks = site.create(*range(100))
    for number in range(20, 300, 40):
        wait_until(functools.partial(site.has_completed, number), f"it goes on\n{site.report()}")
        site.sql.rows(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND usename LIKE 'tasker_test_%%'"""
        )

    assert set(site.wait_for(*tasks)) == {"complete"}
    assert site.times("complete") == 300
    assert partner.terminate() == 0
    site.check()


def test_a_task_that_somebody_holds_delays_no_other(site: Site) -> None:
    gate = site.gate()
    site.register(step("wait", "conformance.wait", initialization=gate.initialization))
    partner = site.partner()
    tasks = site.create(1, 2, 3)
    gate.wait_for(3)
    other = site.sql.connection.execute  # one connection, in one transaction
    with site.sql.connection.transaction():
        other("SELECT FROM tasker.tasks WHERE task_uuid = %s FOR NO KEY UPDATE", [tasks[1]])
        gate.open()
        with site.core.database.connection() as connection:
            query = "SELECT count(*) FROM tasker.tasks WHERE state = 'complete'"
            wait_until(lambda: connection.execute(query).fetchone() == (2,), "the other two are complete")
    assert site.wait_for(*tasks) == ["complete"] * 3
    assert site.times("complete") == 3
    assert partner.terminate() == 0
    site.check()


def test_a_stop_that_was_asked_for_in_the_database_is_heeded(site: Site) -> None:
    partner = site.partner(TASKER_POLL_SECONDS=NEVER)
    (executor,) = site.executors(partner)
    functions.run(site.sql.connection, functions.request_executor_stop({"executor": executor}))
    assert partner.wait() == 0
    assert site.sql.one("SELECT count(*) FROM tasker.executors") == 0


# -- answering by message ---------------------------------------------------------------------------------------------


def test_outcomes_may_be_sent_as_messages(site: Site) -> None:
    site.register(
        step("start", "conformance.start"),
        step("fail", "conformance.fail_until", "start", initialization={"attempt": 2}),
        step("end", "conformance.add", "fail"),
    )
    site.register(step("refuse", "conformance.refuse"), name="refuses")
    site.work_in_house()
    partner = site.partner(TASKER_ANSWER_BY="message")
    tasks = [*site.create(1, 2, 3), *site.create(1, name="refuses")]

    assert site.wait_for(*tasks) == ["complete"] * 3 + ["error"]
    assert [site.results(task)["end"] for task in tasks[:3]] == [{"value": 2}] * 3
    assert site.times("complete") == 9
    assert partner.terminate() == 0
    assert site.sql.one("SELECT count(*) FROM tasker.dead_letters WHERE kind = 'message'") == 0
    assert site.sql.one("SELECT max(losses) FROM tasker.workflow_steps") == 0
    site.check()


def test_a_message_from_before_a_step_was_given_to_another_is_refused(site: Site) -> None:
    gate = site.gate()
    site.register(step("wait", "conformance.wait_deaf", initialization=gate.initialization))
    frozen = site.partner(TASKER_ANSWER_BY="message")
    (task,) = site.create(1)
    gate.wait_for(1)
    frozen.signal(signal.SIGSTOP)
    site.lose(frozen)
    site.partner()
    gate.wait_for(2)
    gate.open()
    assert site.wait_for(task) == ["complete"]
    site.work_in_house()
    frozen.signal(signal.SIGCONT)
    assert [partner.terminate() for partner in site.partners] == [0, 0]
    wait_until(lambda: site.sql.depth("orchestration_step_results") == 0, "whatever it sent is taken")

    assert site.times("complete") == 1
    site.check()
