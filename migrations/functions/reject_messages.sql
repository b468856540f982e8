-- Moves messages to dead letters by id, each with what is wrong with it: rejections [{msg_id, rejected: {reason, message}}].
CREATE OR REPLACE FUNCTION tasker.reject_messages(queue text, rejections jsonb) RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    n integer;
BEGIN
    EXECUTE format(
        'WITH gone AS (DELETE FROM pgmq.%I AS q USING jsonb_array_elements($1) AS r(entry)
                       WHERE q.msg_id = (r.entry->>''msg_id'')::bigint
                       RETURNING q.msg_id, q.read_ct, q.message, r.entry)
         INSERT INTO tasker.dead_letters (kind, queue, reason, snapshot)
         SELECT ''message'', $2, coalesce(g.entry #>> ''{rejected,reason}'', ''rejected''),
                jsonb_build_object(''msg_id'', g.msg_id, ''read_ct'', g.read_ct, ''message'', g.message,
                                   ''why'', g.entry #>> ''{rejected,message}'')
         FROM gone AS g', 'q_' || queue) USING rejections, queue;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;
