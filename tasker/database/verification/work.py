"""Rules about what holds and carries steps: receipts, executors and queue messages."""

from __future__ import annotations

from tasker.database.verification.rule import Check, Rule

RECEIPTS = Check(
    about="receipts",
    task="k.task_uuid",
    step=("k.step_position", "k.map_index"),
    source="""
        FROM (SELECT e.task_uuid, e.step_position, e.map_index, e.fence, min(CAST(c.executor AS text)) AS holder,
                     count(*) AS n
              FROM tasker.step_claims AS c
              CROSS JOIN LATERAL unnest(c.task_uuids, c.positions, c.map_indexes, c.fences)
                         AS e(task_uuid, step_position, map_index, fence)
              GROUP BY e.task_uuid, e.step_position, e.map_index, e.fence) AS k
        LEFT JOIN tasker.workflow_steps AS s
          ON s.task_uuid = k.task_uuid AND s.position = k.step_position AND s.map_index = k.map_index""",
    where="$scope(k.task_uuid)",
    rules=(
        Rule(
            "receipt-has-step",
            "what a receipt holds exists",
            "s.task_uuid IS NULL",
            "format('executor %s holds a step that does not exist', k.holder)",
            "was its task pruned, or deleted by hand?",
            repaired="the receipt goes when its executor names it or is lost",
        ),
        Rule(
            "receipt-fence",
            "no receipt has a fence that its step has not reached",
            "k.fence > s.fence",
            "format('executor %s holds fence %s; the step has %s', k.holder, k.fence, s.fence)",
            "a fence was lowered, so that two executors may both believe to hold the step: report it",
        ),
        Rule(
            "one-receipt-for-a-fence",
            "no two receipts hold the same fence of a step",
            "k.n > 1",
            "format('%s receipts hold fence %s', k.n, k.fence)",
            "two executors run the same attempt: report it",
        ),
    ),
)

HOLDERS = Check(
    about="who holds receipts",
    source="""
        FROM (SELECT c.executor, count(*) AS n FROM tasker.step_claims AS c GROUP BY c.executor) AS c
        LEFT JOIN tasker.executors AS e ON e.executor = c.executor
        -- Receipts of calls that it does not hold, with steps that nobody reports; without, they only wait to be named.
        CROSS JOIN LATERAL (
            SELECT count(*) AS n, min(r.call_no) AS first
            FROM tasker.step_claims AS r
            WHERE r.executor = e.executor AND e.lost_at IS NULL
              AND (r.call_no < e.oldest_call_no OR (r.call_no < e.next_call_no AND r.call_no <> ALL (e.held_calls)))
              AND EXISTS (SELECT FROM unnest(r.task_uuids, r.positions, r.map_indexes, r.fences)
                               AS k(task_uuid, step_position, map_index, fence)
                          JOIN tasker.workflow_steps AS s ON s.task_uuid = k.task_uuid
                               AND s.position = k.step_position AND s.map_index = k.map_index
                          WHERE s.state = 'in_progress' AND s.fence = k.fence AND s.executor = r.executor)) AS f
        CROSS JOIN tasker.coordinator AS o""",
    rules=(
        Rule(
            "forgotten-receipts",
            "no executor that was lost an hour ago still holds receipts, while the coordinator ticks",
            "e.lost_at < o.last_tick_at - interval '1 hour'",
            "format('executor %s is lost since %s and holds %s receipts', c.executor, e.lost_at, c.n)",
            "the sweep passes them by: look in the coordinator's log, and for a transaction that holds their tasks",
        ),
        Rule(
            "receipts-of-the-dead",
            "no executor that is absent or lost holds receipts",
            "e.executor IS NULL OR e.lost_at >= coalesce(o.last_tick_at, e.lost_at) - interval '1 hour'",
            "format('executor %s is %s and holds %s receipts',"
            " c.executor, CASE WHEN e.executor IS NULL THEN 'gone' ELSE 'lost' END, c.n)",
            "see that the coordinator ticks (beat, or an orchestration worker)",
            repaired="the next sweep gives their steps back",
        ),
        Rule(
            "receipts-of-answers-that-got-lost",
            "a living executor holds every call that brought it a step which runs, as far as its last heartbeat tells",
            "f.n > 0",
            "format('executor %s has steps of %s that it does not hold, the first is call %s; it said it holds %s',"
            " c.executor, CASE f.n WHEN 1 THEN 'a call' ELSE f.n || ' calls' END, f.first,"
            " CASE WHEN f.first < e.oldest_call_no THEN 'none below ' || e.oldest_call_no"
            " WHEN e.held_calls = '{}' THEN 'none below ' || e.next_call_no"
            " ELSE array_to_string(e.held_calls, ', ') || ' below ' || e.next_call_no END)",
            "see that the coordinator ticks (beat, or an orchestration worker)",
            repaired="the next sweep gives their steps back",
        ),
    ),
)

EXECUTORS = Check(
    about="executors",
    source="FROM tasker.executors AS e",
    rules=(
        Rule(
            "silent-executors",
            "every executor that is not lost was heard of in the last ten minutes",
            "e.lost_at IS NULL AND e.heartbeat_at < transaction_timestamp() - interval '10 minutes'",
            "format('executor %s of %s was last heard of at %s', e.executor, e.worker, e.heartbeat_at)",
            "see that the coordinator ticks (beat, or an orchestration worker)",
            repaired="two sweeps, a lease apart, declare it lost",
        ),
    ),
)

MESSAGES = Check(
    about="messages on step queues",
    task="q.task_uuid",
    step=("q.step_position", "q.map_index"),
    source="""
        FROM $messages AS q
        LEFT JOIN tasker.workflow_steps AS s
          ON s.task_uuid = q.task_uuid AND s.position = q.step_position AND s.map_index = q.map_index
        LEFT JOIN tasker.tasks AS t ON t.task_uuid = q.task_uuid
        LEFT JOIN tasker.named_steps AS n ON n.named_task_id = t.named_task_id AND n.position = q.step_position""",
    where="$scope(q.task_uuid)",
    rules=(
        Rule(
            "message-has-step",
            "a message's step exists",
            "q.is_readable AND s.task_uuid IS NULL",
            "format('message %s on %s names a step that does not exist', q.msg_id, q.queue)",
            "was a task deleted by hand? Else look for who sends to the queue",
            repaired="the next claim from that queue uses it up",
        ),
        Rule(
            "message-is-readable",
            "a message on a step queue can be understood",
            "NOT q.is_readable",
            "format('message %s on %s: %s', q.msg_id, q.queue, left(CAST(q.message AS text), 80))",
            "look for who sends to the queue: it is Tasker's alone",
            repaired="the next claim from that queue moves it to dead letters",
        ),
        Rule(
            "message-is-on-its-queue",
            "a message lies on the queue of its step",
            "q.queue <> ALL (ARRAY[n.queue, n.queue || '_high', n.queue || '_low'])",
            "format('message %s lies on %s; the step''s queue is %s', q.msg_id, q.queue, n.queue)",
            "workers without its handler may claim the step: report it",
        ),
    ),
)

OTHER_MESSAGES = Check(
    about="messages on orchestration queues",
    task="q.task_uuid",
    source="""
        FROM (SELECT x.queue, x.msg_id, x.message, x.is_readable,
                     CASE WHEN x.is_readable THEN CAST(x.message->>'task_uuid' AS uuid) END AS task_uuid
              FROM (SELECT 'step_enqueue' AS queue, m.msg_id, m.message,
                           tasker.is_step_enqueue_message(m.message) AS is_readable
                    FROM pgmq.q_step_enqueue AS m
                    UNION ALL
                    SELECT 'task_finalization', m.msg_id, m.message,
                           coalesce(m.message->>'task_uuid' ~* '^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$', false)
                    FROM pgmq.q_task_finalization AS m OFFSET 0) AS x) AS q
        LEFT JOIN tasker.tasks AS t ON t.task_uuid = q.task_uuid""",
    where="$scope(q.task_uuid)",
    rules=(
        Rule(
            "orchestration-message-has-task",
            "a message for the step enqueuer or a finalizer names a task that exists",
            "q.is_readable AND t.task_uuid IS NULL",
            "format('message %s on %s names a task that does not exist', q.msg_id, q.queue)",
            "was a task deleted by hand? Else look for who sends to the queue",
            repaired="the queue's consumer uses it up",
        ),
        Rule(
            "orchestration-message-is-readable",
            "a message for the step enqueuer or a finalizer can be understood",
            "NOT q.is_readable",
            "format('message %s on %s: %s', q.msg_id, q.queue, left(CAST(q.message AS text), 80))",
            "look for who sends to the queue: it is Tasker's alone",
            repaired="the queue's consumer moves it to dead letters",
        ),
    ),
)

CHECKS = (RECEIPTS, HOLDERS, EXECUTORS, MESSAGES, OTHER_MESSAGES)
