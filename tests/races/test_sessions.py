"""Two sessions at the same moment: what one holds, the other skips, waits for, or is told about."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from tests.races.conftest import is_blocked
from tests.sql_kit import CHAIN, DIAMOND, Core, Worker, sweep
from tests.waiting import wait_until


class Running:
    """A call on a thread of its own."""

    def __init__(self, call: Any) -> None:
        self.answer: Any = None
        self.error: BaseException | None = None

        def run() -> None:
            try:
                self.answer = call()
            except BaseException as error:
                self.error = error

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def join(self) -> Any:
        self._thread.join(20)
        assert not self._thread.is_alive(), "the call is still blocked"
        if self.error is not None:
            raise self.error
        return self.answer


def twin(worker: Worker, core: Core) -> Worker:
    """The same executor on another session."""
    other = Worker.__new__(Worker)
    other.__dict__.update(worker.__dict__, core=core)
    return other


def test_rule_1_a_repeat_beside_the_running_original_waits_and_gets_its_receipt(core: Core, second: Core) -> None:
    core.register("order", {"a": []})
    core.create("order", 4)
    worker = core.executor()
    repeat = twin(worker, second)
    with core.connection.transaction():
        first = worker.claim(2, call_no=1)
        running = Running(lambda: repeat.claim(2, call_no=1))
        wait_until(lambda: is_blocked(core, second), "the repeat to wait for the receipt")
    repeated = running.join()
    assert [s["step_uuid"] for s in repeated] == [s["step_uuid"] for s in first]
    assert core.depth("shop_queue") == 2
    worker.call_no = 1
    worker.complete(first)


def test_rule_1_a_repeat_takes_over_when_the_original_rolls_back(core: Core, second: Core) -> None:
    core.register("order", {"a": []})
    core.create("order", 4)
    worker = core.executor()
    repeat = twin(worker, second)
    with core.connection.transaction(force_rollback=True):
        worker.claim(2, call_no=1)
        running = Running(lambda: repeat.claim(2, call_no=1))
        wait_until(lambda: is_blocked(core, second), "the repeat to wait for the receipt")
    assert len(running.join()) == 2
    assert core.depth("shop_queue") == 2
    repeat.call_no = 1
    repeat.complete(repeat.last["steps"])


def test_two_claims_never_take_the_same_step(core: Core, second: Core) -> None:
    core.register("order", {"a": []})
    core.create("order", 10)
    one, two = core.executor(), second.executor()
    with core.connection.transaction():
        mine = one.claim(4)
        theirs = two.claim(10)
    assert len(mine) == 4
    assert len(theirs) == 6
    assert not {s["step_uuid"] for s in mine} & {s["step_uuid"] for s in theirs}
    one.complete(mine)
    two.complete(theirs)


def test_a_users_open_transaction_on_one_task_leaves_unrelated_work_alone(core: Core, second: Core) -> None:
    core.register("order", {"a": []})
    held, *others = core.create("order", 20)
    worker = core.executor()
    steps = worker.claim(50)
    with second.connection.transaction():
        second.rows("SELECT FROM tasker.tasks WHERE task_uuid = %s FOR UPDATE", held)
        answers = {o["task_uuid"]: o["answer"] for o in worker.complete(steps)["outcomes"]}
        assert answers.pop(held) == "busy"
        assert set(answers.values()) == {"accepted"}
        assert len(answers) == len(others)
        assert core.one("SELECT count(*) FROM tasker.tasks WHERE finished_at IS NOT NULL") == 19
    (mine,) = [s for s in steps if s["task_uuid"] == held]
    assert worker.complete([mine])["outcomes"][0]["answer"] == "accepted"


def test_a_busy_outcome_submitted_alone_waits_no_longer_than_its_lock_timeout(core: Core, second: Core) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    worker = core.executor()
    steps = worker.claim()
    with second.connection.transaction():
        second.rows("SELECT FROM tasker.tasks WHERE task_uuid = %s FOR UPDATE", task)
        core.connection.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            worker.complete(steps, call_no=2, wait=True)
        core.connection.execute("RESET lock_timeout")
    assert worker.complete(steps, call_no=2, wait=True)["outcomes"][0]["answer"] == "accepted"


def test_rule_2_a_release_waits_for_the_completion_and_takes_nothing_away(core: Core, second: Core) -> None:
    core.register("order", CHAIN)
    (task,) = core.create("order")
    worker = core.executor()
    steps = worker.claim()
    with core.connection.transaction():
        worker.complete(steps, finished=[1])
        running = Running(lambda: twin(worker, second).release(steps))
        wait_until(lambda: is_blocked(core, second), "the release to wait for the step")
    assert running.join()["released"] == 0
    assert core.states(task)["a"] == "complete"


def test_rule_6_a_claim_never_waits_for_a_cancellation_nor_the_reverse(core: Core, second: Core) -> None:
    core.register("order", {"a": []}, step={"backoff": "none"})
    (task,) = core.create("order")
    worker = core.executor()
    worker.fail(worker.claim())
    other = second.executor()
    with core.connection.transaction():
        core.call("cancel_tasks", {"task_uuids": [task]})
        assert other.claim() == []
    assert core.states(task) == {"a": "cancelled"}
    assert core.one("SELECT count(*) FROM tasker.step_timers") == 0


def test_rule_16_resume_brings_back_what_a_claim_that_still_reads_paused_drops(core: Core, second: Core) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    core.call("pause_tasks", {"task_uuids": [task]})
    worker = core.executor()
    with core.connection.transaction():
        assert worker.claim() == []  # it has seen the pause and uses the message up
        running = Running(lambda: second.call("resume_tasks", {"task_uuids": [task]}))
        wait_until(lambda: is_blocked(core, second), "resume to wait for the step that the claim has locked")
    running.join()
    assert worker.run_all() == 1


def test_rule_21_a_finalizer_that_waits_for_the_row_reads_what_the_other_committed(core: Core, second: Core) -> None:
    core.register("order", {"a": []}, has_after_work=True)
    (task,) = core.create("order")
    core.executor().run_all()
    claim = "SELECT claimed, reason, already_claimed_by FROM tasker.claim_task_for_finalization(%s, %s)"
    with core.connection.transaction():
        assert core.rows(claim, task, "f1")[0][0] is True
        running = Running(lambda: second.rows(claim, task, "f2"))
        wait_until(lambda: is_blocked(core, second), "the second finalizer to wait for the row")
    assert running.join() == [(False, "already_claimed", "f1")]


def test_an_outcome_that_waited_while_its_step_started_ends_it_after_its_start(core: Core, second: Core) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    worker = core.executor()
    step_uuid = core.steps(task)["a"]["step_uuid"]
    outcome = {
        "task_uuid": task, "step_uuid": step_uuid, "fence": 1, "executor": worker.uuid, "status": "complete",
    }  # fmt: skip
    with core.connection.transaction():
        core.rows("SELECT FROM tasker.workflow_steps WHERE task_uuid = %s FOR UPDATE", task)
        early = Running(lambda: second.call("process_step_results", {"messages": [{"msg_id": 0, "outcome": outcome}]}))
        wait_until(lambda: is_blocked(core, second), "the outcome to wait for the step")
        worker.claim()
    assert early.join()["outcomes"][0]["answer"] == "accepted"
    step = core.steps(task)["a"]
    assert step["started_at"] < step["finished_at"]


def test_a_creation_waits_for_its_uncommitted_twin_and_then_returns_it(core: Core, second: Core) -> None:
    core.register("order", {"a": []})
    request = {"namespace": "shop", "name": "order", "identity_key": "k"}
    with core.connection.transaction():
        (mine,) = core.create_many([request])
        running = Running(lambda: second.create_many([request]))
        wait_until(lambda: is_blocked(core, second), "the twin to wait")
    (theirs,) = running.join()
    assert (theirs["task_uuid"], theirs["is_new"]) == (mine["task_uuid"], False)


def test_a_creation_whose_twin_rolls_back_makes_its_own(core: Core, second: Core) -> None:
    core.register("order", {"a": []})
    request = {"namespace": "shop", "name": "order", "identity_key": "k"}
    with core.connection.transaction(force_rollback=True):
        core.create_many([request])
        running = Running(lambda: second.create_many([request]))
        wait_until(lambda: is_blocked(core, second), "the twin to wait")
    assert running.join()[0]["is_new"] is True


def test_creations_with_the_same_keys_in_opposite_order_do_not_deadlock(core: Core, second: Core) -> None:
    core.register("order", {"a": []})
    keys = [f"k{i}" for i in range(200)]
    requests = [{"namespace": "shop", "name": "order", "identity_key": key} for key in keys]
    one = Running(lambda: core.create_many(requests))
    two = Running(lambda: second.create_many(requests[::-1]))
    found = {a["task_uuid"] for a in one.join()} | {a["task_uuid"] for a in two.join()}
    assert len(found) == 200
    assert core.one("SELECT count(*) FROM tasker.tasks") == 200


def test_a_version_cannot_be_replaced_under_a_task_that_is_being_created(core: Core, second: Core) -> None:
    core.register("order", CHAIN)
    with core.connection.transaction():
        core.create("order")
        running = Running(lambda: second.register("order", DIAMOND))
        wait_until(lambda: is_blocked(core, second), "the registration to wait for the version's row")
    with pytest.raises(psycopg.Error) as caught:
        running.join()
    assert caught.value.sqlstate == "TK003"
    core.executor().run_all()


def test_the_sweep_and_a_late_completion_settle_a_step_once(core: Core, second: Core) -> None:
    core.register("order", {"a": [], "b": ["a"]})
    (task,) = core.create("order")
    worker = core.executor()
    steps = worker.claim()
    worker.die()
    with second.connection.transaction():
        # The completion has passed its check and holds the task; the sweep marks the executor and has to skip.
        twin(worker, second).complete(steps, finished=[])
        answer = sweep(core)
        assert (len(answer["lost_executors"]), answer["requeued"]) == (1, 0)
    assert core.states(task) == {"a": "complete", "b": "enqueued"}
    assert sweep(core)["requeued"] == 0
    assert core.one("SELECT count(*) FROM tasker.step_claims") == 0
    assert core.executor().run_all() == 1


def test_a_release_that_overlaps_a_resume_loses_no_message(core: Core, second: Core) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    worker = core.executor()
    steps = worker.claim()
    core.call("pause_tasks", {"task_uuids": [task]})
    other = second.executor()
    third = Core(core.url)
    try:
        with second.connection.transaction():
            second.call("resume_tasks", {"task_uuids": [task]})
            release = Running(lambda: worker.release(steps, finished=[1]))
            wait_until(lambda: release.answer is not None or is_blocked(second, core), "the release to end or to wait")
            # Whoever claims now still reads "paused", and drops the message if it is there.
            assert twin(other, third).claim() == []
        assert release.join()["released"] == 1
    finally:
        third.close()
    assert other.run_all() == 1
    assert core.task(task)["state"] == "complete"


def test_recording_results_waits_for_no_deadline_that_a_cancellation_holds(core: Core, second: Core) -> None:
    core.register("order", {"a": [], "b": []}, step={"delegated": True, "timeout_seconds": 60})
    first, last = core.create("order", 2)
    worker = core.executor()
    steps = worker.claim()
    worker.complete(steps, outcome={"status": "delegated", "deadline_seconds": 60})
    core.call("resolve_step", {"task_uuid": first, "step": "a", "results": None})
    (mine,) = [s for s in steps if s["task_uuid"] == last and s["position"] == 0]
    outcome = {key: mine[key] for key in ("task_uuid", "step_uuid", "fence")}
    outcome |= {"executor": worker.uuid, "status": "complete", "results": 1}
    second.connection.execute("SET lock_timeout = '5s'")
    with core.connection.transaction():
        core.call("cancel_tasks", {"task_uuids": [first]})
        # It has locked the last task when it comes to the deadlines; the canceller may want that task next.
        answer = second.call("process_step_results", {"messages": [{"msg_id": 1, "outcome": outcome}]})
        assert [o["answer"] for o in answer["outcomes"]] == ["accepted"]
        assert answer["revoke"] == []
        core.call("cancel_tasks", {"task_uuids": [last]})
    assert len(second.call("process_step_results", {})["revoke"]) == 3
