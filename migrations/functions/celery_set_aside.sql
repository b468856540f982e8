CREATE OR REPLACE FUNCTION tasker.celery_set_aside(p_pgmq_queue text, p_id bigint)
RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM tasker.celery_queues AS q WHERE q.pgmq_queue = p_pgmq_queue) THEN
        RETURN false;
    END IF;
    RETURN pgmq.archive(p_pgmq_queue, p_id);
END
$$;

COMMENT ON FUNCTION tasker.celery_set_aside(text, bigint) IS
    'Moves a message that is no Celery message (somebody else sent it) to the queue''s PGMQ archive: it must neither stop the workers nor be lost.';
