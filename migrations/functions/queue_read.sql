-- The oldest visible messages of a queue, made invisible for a while: for queues that are read first and deleted with the
-- result of the work. The same as pgmq.read, on PGMQ's own table.
CREATE OR REPLACE FUNCTION tasker.queue_read(queue text, visibility_timeout_seconds double precision, quantity integer)
RETURNS TABLE (msg_id bigint, read_ct integer, enqueued_at timestamptz, message jsonb)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE format(
        'WITH next AS MATERIALIZED (SELECT q.ctid AS tid FROM pgmq.%1$I AS q WHERE q.vt <= clock_timestamp()
                                    ORDER BY q.msg_id LIMIT $1 FOR UPDATE SKIP LOCKED)
         UPDATE pgmq.%1$I AS q SET vt = clock_timestamp() + make_interval(secs => $2), read_ct = q.read_ct + 1
         FROM next AS n WHERE q.ctid = n.tid
         RETURNING q.msg_id, q.read_ct, q.enqueued_at, q.message', 'q_' || queue)
        USING quantity, visibility_timeout_seconds;
END
$$;
