CREATE OR REPLACE FUNCTION tasker.celery_notify(p_queue text)
RETURNS void
LANGUAGE sql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    -- One channel per Celery queue, whatever the priorities: readers need not know which of them are in use.
    SELECT pg_notify('tasker_' || q.pgmq_queue, '')
      FROM tasker.celery_queues AS q
     WHERE q.name = p_queue AND q.priority = 0
$$;

COMMENT ON FUNCTION tasker.celery_notify(text) IS
    'Tells the readers of a Celery queue, after the commit, that it has messages. Channels are tasker_<PGMQ queue>.';
