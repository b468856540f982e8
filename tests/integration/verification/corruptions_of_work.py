"""For each rule about receipts, executors and messages the ways to break it, and it alone."""

from __future__ import annotations

from tests.integration.verification.corruption import PAST, STRANGER, by

_RECEIPT = """INSERT INTO tasker.step_claims (executor, call_no, task_uuids, positions, map_indexes, fences)
              VALUES ({complete!executor}, 999, """

CORRUPTIONS = {
    "receipt-has-step": [
        by(
            "a receipt holds a step that is not there",
            _RECEIPT + f"ARRAY[{STRANGER}], ARRAY[0], ARRAY[0], ARRAY[1])",
        ),
    ],
    "receipt-fence": [
        by(
            "a receipt has a fence that its step never had",
            _RECEIPT + "ARRAY[{complete}], ARRAY[0], ARRAY[0], ARRAY[7])",
        ),
    ],
    "one-receipt-for-a-fence": [
        by(
            "a second executor has a receipt for a running step",
            _RECEIPT + "ARRAY[{running}], ARRAY[0], ARRAY[0], ARRAY[1])",
        ),
    ],
    "forgotten-receipts": [
        by(
            "an executor was lost two hours ago, and its receipts are still there",
            "UPDATE tasker.executors SET lost_at = clock_timestamp() - interval '2 hours'"
            " WHERE executor = {running!executor}",
            "UPDATE tasker.coordinator SET last_tick_at = clock_timestamp()",
        ),
    ],
    "receipts-of-the-dead": [
        by(
            "the executor of a running step leaves",
            "DELETE FROM tasker.executors WHERE executor = {running!executor}",
        ),
    ],
    "receipts-of-answers-that-got-lost": [
        by(
            "an executor says that it holds nothing from before",
            "UPDATE tasker.executors SET oldest_call_no = 1000 WHERE executor = {running!executor}",
        ),
        by(
            "an executor holds calls before and after one that it has a receipt of, and not that one",
            "UPDATE tasker.step_claims SET call_no = 3 WHERE executor = {running!executor}",
            "UPDATE tasker.executors SET oldest_call_no = 2, next_call_no = 5, held_calls = ARRAY[2, 4]"
            " WHERE executor = {running!executor}",
        ),
        by(
            "an executor says that it holds no call at all",
            "UPDATE tasker.executors SET next_call_no = 2, held_calls = '{{}}' WHERE executor = {running!executor}",
        ),
    ],
    "silent-executors": [
        by(
            "an executor is silent for an hour",
            f"UPDATE tasker.executors SET heartbeat_at = {PAST} WHERE executor = {{running!executor}}",
        ),
    ],
    "message-has-step": [
        by(
            "a message names a step that is not there",
            "INSERT INTO pgmq.q_complete_queue (vt, message)"
            f" VALUES (now(), jsonb_build_object('task_uuid', {STRANGER}, 'position', 0, 'map_index', 0))",
        ),
    ],
    "message-is-readable": [
        by(
            "a message says nothing",
            "INSERT INTO pgmq.q_complete_queue (vt, message) VALUES (now(), '{{}}')",
        ),
    ],
    "message-is-on-its-queue": [
        by(
            "a message lies on the queue of another namespace",
            "INSERT INTO pgmq.q_complete_queue (vt, message) SELECT q.vt, q.message FROM pgmq.q_enqueued_queue AS q",
            "DELETE FROM pgmq.q_enqueued_queue",
        ),
    ],
    "orchestration-message-has-task": [
        by(
            "a message for the finalizers names a task that is not there",
            "INSERT INTO pgmq.q_task_finalization (vt, message)"
            f" VALUES (now(), jsonb_build_object('task_uuid', {STRANGER}))",
        ),
    ],
    "orchestration-message-is-readable": [
        by(
            "a message for the step enqueuer says nothing",
            "INSERT INTO pgmq.q_step_enqueue (vt, message) VALUES (now(), '{{}}')",
        ),
    ],
}
