-- The oldest domain events of a namespace that nobody handles at the moment, hidden from others for a while: delete them
-- with tasker.settle_events when they are handled, or they show again. With "peek" they are only looked at.
--
-- What no pattern of a reader matches stays where it is. So that readers need not pass it again with each call, one looks at
-- so many messages behind "after" and says how far it came; begin at the front again from time to time, since messages that
-- were not handled show there.
--
-- request: namespace, pattern (of names; * stands for any characters), limit, visibility_timeout_seconds, after (msg_id),
-- look (messages), peek. Returns {events: [{msg_id, read_count, event}], last, is_end, newest}: newest is the last message that
-- there is, null if there is none. JSON as text, not jsonb: it is only sent, and building jsonb first costs half as much again.
CREATE OR REPLACE FUNCTION tasker.read_events(request jsonb) RETURNS json
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
DECLARE
    queue constant text := (request->>'namespace') || '_domain_events';
    most constant integer := least(greatest(coalesce((request->>'limit')::integer, 100), 1), 1000);
    look constant integer := least(greatest(coalesce((request->>'look')::integer, 10000), 1), 100000);
    hidden constant double precision := least(greatest(coalesce((request->>'visibility_timeout_seconds')::double precision, 60), 1), 604800);
    peek constant boolean := coalesce((request->>'peek')::boolean, false);
    -- LIKE knows % and _; nothing but * means anything here.
    names constant text := replace(regexp_replace(coalesce(request->>'pattern', '*'), '([\\%_])', '\\\1', 'g'), '*', '%');
    -- One answer is one value of JSON, of which PostgreSQL makes no large ones.
    most_bytes constant bigint := 8388608;
    answer json;
BEGIN
    IF queue IS NULL OR queue !~ '^[a-z][a-z0-9_]{0,46}$' OR to_regclass(format('pgmq.%I', 'q_' || queue)) IS NULL THEN
        RAISE EXCEPTION 'namespace % has no domain events', coalesce(quote_literal(request->>'namespace'), 'null')
            USING ERRCODE = 'TK004', COLUMN = 'namespace',
                  HINT = 'its queue is made when a workflow is registered that publishes some';
    END IF;
    -- What is stored may be compressed to a hundredth: what comes out of an operator is not, and its size is what counts.
    -- The inner limit ends a search that finds little, the outer one a search that finds enough.
    EXECUTE format(
        'WITH first AS MATERIALIZED (
             SELECT l.msg_id, pg_column_size(l.message || ''{}'') AS bytes
             FROM (SELECT q.msg_id, q.vt, q.message, $4 = ''%%'' OR q.message->>''name'' LIKE $4 AS matches
                   FROM pgmq.%1$I AS q WHERE q.msg_id > $1 ORDER BY q.msg_id LIMIT $2) AS l
             WHERE l.matches AND (l.vt <= clock_timestamp() OR $3) LIMIT $5
         ), wanted AS MATERIALIZED (
             SELECT f.msg_id FROM (SELECT x.msg_id, sum(x.bytes) OVER (ORDER BY x.msg_id) - x.bytes AS before FROM first AS x) AS f
             WHERE f.before < $7 ORDER BY f.msg_id
         ), locked AS MATERIALIZED (
             SELECT x.tid FROM wanted AS w
             CROSS JOIN LATERAL (SELECT q.ctid AS tid FROM pgmq.%1$I AS q WHERE NOT $3 AND q.msg_id = w.msg_id
                                   AND q.vt <= clock_timestamp() FOR UPDATE SKIP LOCKED) AS x
         ), taken AS (
             UPDATE pgmq.%1$I AS q SET vt = clock_timestamp() + make_interval(secs => $6), read_ct = q.read_ct + 1
             FROM locked AS l WHERE q.ctid = l.tid RETURNING q.msg_id, q.read_ct, q.message
         ), found AS (
             SELECT t.msg_id, t.read_ct, t.message FROM taken AS t
             UNION ALL
             SELECT q.msg_id, q.read_ct, q.message FROM wanted AS w
             CROSS JOIN LATERAL (SELECT y.msg_id, y.read_ct, y.message FROM pgmq.%1$I AS y WHERE y.msg_id = w.msg_id OFFSET 0) AS q
             WHERE $3
         )
         SELECT json_build_object(
             ''events'', (SELECT coalesce(json_agg(json_build_object(''msg_id'', f.msg_id, ''read_count'', f.read_ct, ''event'', f.message)
                                                ORDER BY f.msg_id), ''[]'') FROM found AS f),
             ''last'', CASE WHEN s.is_full THEN (SELECT max(w.msg_id) FROM wanted AS w) ELSE s.last END,
             ''is_end'', NOT s.is_full AND s.looked < $2,
             ''newest'', (SELECT q.msg_id FROM pgmq.%1$I AS q ORDER BY q.msg_id DESC LIMIT 1))
         FROM (SELECT c.is_full, l.looked, l.last
               FROM (SELECT (SELECT count(*) FROM first) = $5 OR (SELECT count(*) FROM wanted) < (SELECT count(*) FROM first) AS is_full) AS c
               LEFT JOIN LATERAL (SELECT count(*) AS looked, max(y.msg_id) AS last
                                  FROM (SELECT q.msg_id FROM pgmq.%1$I AS q WHERE NOT c.is_full AND q.msg_id > $1
                                        ORDER BY q.msg_id LIMIT $2) AS y) AS l ON true) AS s', 'q_' || queue)
    INTO answer
    USING coalesce((request->>'after')::bigint, 0), look, peek, names, most, hidden, most_bytes;
    RETURN answer;
END
$$;
