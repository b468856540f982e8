CREATE OR REPLACE FUNCTION tasker.celery_declare_queue(p_queue text, p_pgmq_queue text, p_priority smallint DEFAULT 0)
RETURNS void
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The usual case costs one look-up and takes no lock.
    IF EXISTS (SELECT 1 FROM tasker.celery_queues WHERE name = p_queue AND priority = p_priority) THEN
        RETURN;
    END IF;
    IF p_pgmq_queue !~ '^celery_[a-z0-9_]{1,40}$' THEN
        RAISE EXCEPTION '% is not a name for a Celery queue in PGMQ', p_pgmq_queue USING ERRCODE = 'TK001';
    END IF;
    PERFORM tasker.queue_ensure(p_pgmq_queue);
    -- Who holds a message is noted in headers, which PGMQ has since 1.5.
    EXECUTE format('ALTER TABLE pgmq.%I ADD COLUMN IF NOT EXISTS headers jsonb', 'q_' || p_pgmq_queue);
    -- Each message leaves two dead rows behind, whatever the table's size.
    EXECUTE format(
        'ALTER TABLE pgmq.%I SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)',
        'q_' || p_pgmq_queue
    );
    INSERT INTO tasker.celery_queues (name, priority, pgmq_queue)
    VALUES (p_queue, p_priority, p_pgmq_queue)
    ON CONFLICT (name, priority) DO NOTHING;
END
$$;

COMMENT ON FUNCTION tasker.celery_declare_queue(text, text, smallint) IS
    'Makes sure that a Celery task queue exists, as a PGMQ queue of the given name. Idempotent.';
