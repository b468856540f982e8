CREATE OR REPLACE FUNCTION tasker.celery_release(p_consumer integer, p_pgmq_queues text[], p_ids bigint[])
RETURNS integer
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
SET enable_seqscan = off
AS $$
DECLARE
    source record;
    moved integer;
    total integer := 0;
BEGIN
    FOR source IN
        SELECT q.name, q.pgmq_queue, array_agg(r.id) AS ids
          FROM unnest(p_pgmq_queues, p_ids) AS r (pgmq_queue, id)
          JOIN tasker.celery_queues AS q ON q.pgmq_queue = r.pgmq_queue
         GROUP BY q.name, q.pgmq_queue
         ORDER BY q.pgmq_queue
    LOOP
        -- Only what this reader still holds: a message that went to another one meanwhile is left alone.
        EXECUTE format(
            'UPDATE pgmq.%I SET vt = enqueued_at, headers = NULL'
            ' WHERE msg_id = ANY ($1) AND headers ->> ''consumer'' = $2',
            'q_' || source.pgmq_queue
        ) USING source.ids, p_consumer::text;
        GET DIAGNOSTICS moved = ROW_COUNT;
        IF moved > 0 THEN
            total := total + moved;
            PERFORM tasker.celery_notify(source.name);
        END IF;
    END LOOP;
    RETURN total;
END
$$;

COMMENT ON FUNCTION tasker.celery_release(integer, text[], bigint[]) IS
    'Returns messages unprocessed (requeue, restore at shutdown) to the front of their queues; how many.';
