CREATE OR REPLACE FUNCTION tasker.celery_detach(p_consumer integer, p_queues text[])
RETURNS void
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM tasker.celery_forget(p_consumer, p_queues);
    PERFORM tasker.celery_delete(m.name) FROM tasker.celery_mailboxes AS m WHERE m.consumer = p_consumer;
    PERFORM pg_advisory_unlock(1413567307, p_consumer);
END
$$;

COMMENT ON FUNCTION tasker.celery_detach(integer, text[]) IS
    'Ends what celery_attach began, on an orderly close: messages read from p_queues and not acknowledged return to them at once, mailboxes go.';
