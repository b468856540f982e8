-- Makes messages that were read visible again after so many seconds. "unread" takes the read back: a look that found a task
-- locked is no failed receipt, and must not use up the number of receipts after which a message goes to dead letters.
CREATE OR REPLACE FUNCTION tasker.queue_show_again(
    queue text, msg_ids bigint[], seconds double precision, unread boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('UPDATE pgmq.%I AS q SET vt = clock_timestamp() + make_interval(secs => $1),
                                             read_ct = greatest(q.read_ct - $3::integer, 0)
                    WHERE q.msg_id = ANY ($2)', 'q_' || queue) USING seconds, msg_ids, unread;
END
$$;
