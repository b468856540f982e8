CREATE OR REPLACE FUNCTION tasker.celery_forget(p_consumer integer, p_queues text[])
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
        SELECT q.name, q.pgmq_queue
          FROM tasker.celery_queues AS q
         WHERE p_queues IS NULL OR q.name = ANY (p_queues)
         ORDER BY q.pgmq_queue
    LOOP
        -- Held messages are the ones with vt ahead, so the index on vt leads straight to them. Back at enqueued_at they
        -- stand where they stood: in front of what came later.
        EXECUTE format(
            'UPDATE pgmq.%I SET vt = enqueued_at, headers = NULL'
            ' WHERE vt > statement_timestamp() AND headers ->> ''consumer'' = $1',
            'q_' || source.pgmq_queue
        ) USING p_consumer::text;
        GET DIAGNOSTICS moved = ROW_COUNT;
        IF moved > 0 THEN
            total := total + moved;
            PERFORM tasker.celery_notify(source.name);
        END IF;
    END LOOP;
    DELETE FROM tasker.celery_consumers WHERE consumer = p_consumer;
    RETURN total;
END
$$;

COMMENT ON FUNCTION tasker.celery_forget(integer, text[]) IS
    'Returns to their queues the messages a reader holds (p_queues: only these; NULL: all) and strikes it off; how many. For the reader itself and for whoever finds it dead.';
