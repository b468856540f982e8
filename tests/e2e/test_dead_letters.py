"""Steps that fail for good on real workers: their letters are listed, the handler is mended, they are retried."""

from __future__ import annotations

from tests.e2e import dead_letter_workflows
from tests.e2e.fixtures import MakeCluster
from tests.waiting import wait_until

TASKS = 30


def test_what_failed_for_good_is_retried_once_its_handler_is_mended_and_completes(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(TASKER_ENGINE__HANDLER_MODULES="tests.e2e.dead_letter_workflows")
    cluster.register(dead_letter_workflows.breakable)
    cluster.worker("-Q", "e2e", "-P", "threads", "-c", "2")
    mended = cluster.folder / "mended"
    contexts = ({"n": n, "mended": str(mended)} for n in range(TASKS))
    handles = cluster.start(dead_letter_workflows.breakable, *contexts)
    assert set(cluster.wait(handles)) == {"error"}

    client = cluster.client
    letters = client.dead_letters(step="charge").letters
    assert {letter.task_uuid for letter in letters} == {handle.task_uuid for handle in handles}
    assert {(letter.reason, letter.error["message"]) for letter in letters} == {("gateway_gone", "the gateway is gone")}

    mended.touch()
    change = client.retry_dead_letters(step="charge", failure="gateway_gone", reason="gateway is back", batch_size=10)
    assert (change.done, change.tasks, change.refused) == (TASKS, TASKS, ())
    wait_until(lambda: set(cluster.wait(handles)) == {"complete"}, "the tasks completed")
    assert [handle.results["thank"]["thanked_for"] for handle in handles] == [n * 2 for n in range(TASKS)]
    # The step before was not done again.
    assert {step.attempts for handle in handles for step in client.steps(handle) if step.name == "take"} == {1}
    assert client.dead_letters().letters == ()
