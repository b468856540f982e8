-- Moves messages that cannot be understood from their queues to dead letters, with the reason: never dropped, never
-- retried for ever.
CREATE OR REPLACE FUNCTION tasker.bury_messages(queues text[], msg_ids bigint[], bodies jsonb[], reason text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    batch record;
BEGIN
    INSERT INTO tasker.dead_letters (kind, queue, reason, snapshot)
    SELECT 'message', m.queue, bury_messages.reason, jsonb_build_object('msg_id', m.msg_id, 'message', m.body)
    FROM unnest(queues, msg_ids, bodies) AS m(queue, msg_id, body);
    FOR batch IN SELECT m.queue, array_agg(m.msg_id) AS ids FROM unnest(queues, msg_ids) AS m(queue, msg_id) GROUP BY m.queue LOOP
        PERFORM tasker.queue_remove(batch.queue, batch.ids);
    END LOOP;
END
$$;
