-- Deletes messages by id; for those locked by tasker.queue_lock, or read with a visibility timeout.
CREATE OR REPLACE FUNCTION tasker.queue_remove(queue text, msg_ids bigint[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE format('DELETE FROM pgmq.%I AS q WHERE q.msg_id = ANY ($1)', 'q_' || queue) USING msg_ids;
END
$$;
