-- Sends again for tasks whose after-work is due and that nobody has claimed: finished, not finalized, and at least
-- after_seconds ago, so that those whose message is on its way are left alone. A message too many is harmless: the second
-- finalizer finds the task finalized and deletes it. None is sent while one for the task is in the queue.
-- Returns {sent, queues[]}.
CREATE OR REPLACE FUNCTION tasker.resend_finalizations(after_seconds double precision, most integer) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    moment constant timestamptz := tasker.now();
    messages jsonb[];
BEGIN
    -- The partial index holds only what is due. The queue is read once, however long: a plan per task would read it each time.
    WITH due AS MATERIALIZED (
        SELECT t.task_uuid, t.finished_at FROM tasker.tasks AS t
        WHERE t.finished_at IS NOT NULL AND t.finalized_at IS NULL
          AND t.finished_at < moment - make_interval(secs => after_seconds)
          AND (t.finalization_claim_expires_at IS NULL OR t.finalization_claim_expires_at <= moment)
        ORDER BY t.finished_at LIMIT least(greatest(most, 1), 10000)),
    queued AS MATERIALIZED (
        SELECT q.message->>'task_uuid' AS task_uuid FROM pgmq.q_task_finalization AS q
        WHERE EXISTS (SELECT 1 FROM due))
    SELECT array_agg(jsonb_build_object('task_uuid', d.task_uuid) ORDER BY d.finished_at) INTO messages
    FROM due AS d WHERE NOT EXISTS (SELECT 1 FROM queued AS q WHERE q.task_uuid = d.task_uuid::text);
    IF messages IS NULL THEN
        RETURN '{"sent": 0, "queues": []}'::jsonb;
    END IF;
    PERFORM tasker.queue_send('task_finalization', messages);
    RETURN jsonb_build_object('sent', cardinality(messages), 'queues', jsonb_build_array('task_finalization'));
END
$$;
