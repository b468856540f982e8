CREATE OR REPLACE FUNCTION tasker.celery_size(p_queue text)
RETURNS bigint
LANGUAGE plpgsql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pgmq_name text;
    ready bigint;
    total bigint;
BEGIN
    FOR pgmq_name IN SELECT q.pgmq_queue FROM tasker.celery_queues AS q WHERE q.name = p_queue LOOP
        EXECUTE format('SELECT count(*) FROM pgmq.%I WHERE vt <= statement_timestamp()', 'q_' || pgmq_name) INTO ready;
        total := coalesce(total, 0) + ready;
    END LOOP;
    IF total IS NULL AND EXISTS (SELECT 1 FROM tasker.celery_mailboxes AS m WHERE m.name = p_queue) THEN
        SELECT count(*) INTO total FROM tasker.celery_mail AS l WHERE l.mailbox = p_queue;
    END IF;
    RETURN total;
END
$$;

COMMENT ON FUNCTION tasker.celery_size(text) IS
    'How many messages are ready in a task queue or mailbox; NULL if there is none of that name.';
