-- Sends the message again for tasks that are finished, not finalized and claimed by nobody, and that have none: the net under
-- the finalizers. Decided for each task, so that messages which never go (of a hook that always fails) hide no others.
-- Returns how many.
CREATE OR REPLACE FUNCTION tasker.resend_finalizations(quantity integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    messages jsonb[];
BEGIN
    SELECT array_agg(jsonb_build_object('task_uuid', d.task_uuid)) INTO messages
    FROM (SELECT x.task_uuid FROM tasker.tasks AS x
          WHERE x.finished_at IS NOT NULL AND x.finalized_at IS NULL AND x.finished_at < clock_timestamp() - interval '5 seconds'
            AND (x.finalization_claim_expires_at IS NULL OR x.finalization_claim_expires_at <= tasker.now())
            AND NOT EXISTS (SELECT FROM pgmq.q_task_finalization AS q WHERE q.message->>'task_uuid' = x.task_uuid::text)
          ORDER BY x.finished_at LIMIT quantity) AS d;
    IF messages IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM tasker.queue_send('task_finalization', messages);
    PERFORM pg_notify('tasker_task_finalization', '');
    RETURN cardinality(messages);
END
$$;
