-- Makes messages that were read visible again after so many seconds.
CREATE OR REPLACE FUNCTION tasker.queue_show_again(queue text, msg_ids bigint[], seconds double precision) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('UPDATE pgmq.%I AS q SET vt = clock_timestamp() + make_interval(secs => $1) WHERE q.msg_id = ANY ($2)',
                   'q_' || queue) USING seconds, msg_ids;
END
$$;
