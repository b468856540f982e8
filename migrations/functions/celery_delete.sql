CREATE OR REPLACE FUNCTION tasker.celery_delete(p_queue text)
RETURNS void
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pgmq_name text;
BEGIN
    DELETE FROM tasker.celery_mailboxes WHERE name = p_queue;
    IF FOUND THEN
        PERFORM set_config('synchronous_commit', 'off', true);
        DELETE FROM tasker.celery_mail WHERE mailbox = p_queue;
    END IF;
    DELETE FROM tasker.celery_bindings WHERE queue = p_queue;
    FOR pgmq_name IN
        DELETE FROM tasker.celery_queues WHERE name = p_queue RETURNING pgmq_queue
    LOOP
        PERFORM pgmq.drop_queue(pgmq_name);
    END LOOP;
END
$$;

COMMENT ON FUNCTION tasker.celery_delete(text) IS 'Deletes a task queue or mailbox with its bindings and messages.';
