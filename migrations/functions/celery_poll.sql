CREATE OR REPLACE FUNCTION tasker.celery_poll(p_request jsonb)
RETURNS TABLE (queue text, pgmq_queue text, msg_id bigint, read_ct integer, message text)
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    source record;
    found_rows integer;
    remaining integer := coalesce((p_request ->> 'limit')::integer, 0);
    mail_limit integer := coalesce((p_request ->> 'mail_limit')::integer, 0);
    done jsonb := coalesce(p_request -> 'done', '{}');
    names text[];
    mark jsonb := jsonb_build_object('consumer', p_request -> 'consumer');
BEGIN
    IF done = '{}' THEN
        -- An acknowledgement is a promise, a claim is not: it ends with this session, and so may its record.
        PERFORM set_config('synchronous_commit', 'off', true);
    ELSE
        -- The join keeps callers to Celery's own queues: this function runs with its owner's rights.
        FOR source IN
            SELECT q.pgmq_queue, ARRAY(SELECT e.id::bigint FROM jsonb_array_elements_text(d.value) AS e (id)) AS ids
              FROM jsonb_each(done) AS d
              JOIN tasker.celery_queues AS q ON q.pgmq_queue = d.key
             ORDER BY q.pgmq_queue
        LOOP
            EXECUTE format('DELETE FROM pgmq.%I WHERE msg_id = ANY ($1)', 'q_' || source.pgmq_queue) USING source.ids;
        END LOOP;
    END IF;

    IF mail_limit > 0 THEN
        names := ARRAY(SELECT jsonb_array_elements_text(p_request -> 'mailboxes'));
        RETURN QUERY
            WITH taken AS (
                DELETE FROM tasker.celery_mail AS d
                 WHERE d.mail_id IN (
                           SELECT l.mail_id
                             FROM tasker.celery_mail AS l
                            WHERE l.mailbox = ANY (names)
                            ORDER BY l.priority, l.mail_id
                            LIMIT mail_limit
                              FOR UPDATE SKIP LOCKED
                       )
             RETURNING d.priority, d.mail_id, d.mailbox, d.expires_at, d.message
            )
            SELECT t.mailbox, NULL::text, NULL::bigint, NULL::integer, t.message
              FROM taken AS t
             WHERE t.expires_at > clock_timestamp()
             ORDER BY t.priority, t.mail_id;
    END IF;

    IF remaining > 0 THEN
        names := ARRAY(SELECT jsonb_array_elements_text(p_request -> 'queues'));
        FOR source IN
            SELECT q.name, q.pgmq_queue
              FROM tasker.celery_queues AS q
             WHERE q.name = ANY (names)
             ORDER BY q.priority, array_position(names, q.name)
        LOOP
            -- By vt, not by msg_id: the index then leads past everything that others hold. vt is the time of sending, so
            -- the order is that of arrival. The claim has no end: whether its holder lives is seen by its session.
            RETURN QUERY EXECUTE format(
                'WITH due AS MATERIALIZED ('
                ' SELECT msg_id FROM pgmq.%1$I WHERE vt <= statement_timestamp()'
                ' ORDER BY vt LIMIT $1 FOR UPDATE SKIP LOCKED)'
                ' UPDATE pgmq.%1$I AS m SET vt = statement_timestamp() + interval ''100 years'','
                ' read_ct = m.read_ct + 1, headers = $2'
                ' FROM due WHERE m.msg_id = due.msg_id'
                ' RETURNING $3, $4, m.msg_id, m.read_ct, m.message::text',
                'q_' || source.pgmq_queue
            ) USING remaining, mark, source.name, source.pgmq_queue;
            GET DIAGNOSTICS found_rows = ROW_COUNT;
            remaining := remaining - found_rows;
            EXIT WHEN remaining <= 0;
        END LOOP;
    END IF;
END
$$;

COMMENT ON FUNCTION tasker.celery_poll(jsonb) IS
    'A reader''s one round trip: {consumer, done{pgmq_queue: ids[]}, queues[], limit, mailboxes[], mail_limit}. Acknowledges (deletes) what is done, takes the mail, the most urgent first, and claims up to limit messages of all queues, the most urgent priority first, then in the order of queues. Mail has no msg_id and needs no acknowledgement.';
