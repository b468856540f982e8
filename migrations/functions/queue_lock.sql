-- The oldest visible messages of a queue after message "after", locked and left in place: whoever calls decides, after it
-- has locked the steps or tasks they speak of, which of them to remove (tasker.queue_remove). Popping first would lose
-- those whose step is busy.
CREATE OR REPLACE FUNCTION tasker.queue_lock(
    queue text, after bigint, quantity integer, OUT msg_ids bigint[], OUT messages jsonb[])
LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE format('SELECT array_agg(m.msg_id ORDER BY m.msg_id), array_agg(m.message ORDER BY m.msg_id)
                    FROM (SELECT q.msg_id, q.message FROM pgmq.%I AS q
                          WHERE q.vt <= clock_timestamp() AND q.msg_id > $1
                          ORDER BY q.msg_id LIMIT $2 FOR UPDATE SKIP LOCKED) AS m', 'q_' || queue)
        INTO msg_ids, messages USING after, quantity;
END
$$;
