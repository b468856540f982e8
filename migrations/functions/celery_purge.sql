CREATE OR REPLACE FUNCTION tasker.celery_purge(p_queue text)
RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pgmq_name text;
    removed bigint;
    total bigint;
BEGIN
    DELETE FROM tasker.celery_mail WHERE mailbox = p_queue;
    GET DIAGNOSTICS total = ROW_COUNT;
    FOR pgmq_name IN SELECT q.pgmq_queue FROM tasker.celery_queues AS q WHERE q.name = p_queue LOOP
        -- What workers hold is theirs to acknowledge: AMQP's purge removes ready messages only.
        EXECUTE format('DELETE FROM pgmq.%I WHERE vt <= statement_timestamp()', 'q_' || pgmq_name);
        GET DIAGNOSTICS removed = ROW_COUNT;
        total := total + removed;
    END LOOP;
    RETURN total;
END
$$;

COMMENT ON FUNCTION tasker.celery_purge(text) IS 'Removes the ready messages of a task queue or mailbox; how many.';
