CREATE OR REPLACE FUNCTION tasker.celery_publish(
    p_exchange text,
    p_routing_key text,
    p_message text,
    p_priority smallint,
    p_ttl_seconds double precision,
    p_pgmq_queue text
)
RETURNS integer
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
SET enable_seqscan = off
AS $$
DECLARE
    targets text[];
    target record;
    pgmq_name text;
    reached integer := 0;
BEGIN
    IF p_exchange = '' THEN
        targets := ARRAY[p_routing_key];
    ELSE
        targets := ARRAY(
            SELECT DISTINCT b.queue
              FROM tasker.celery_bindings AS b
             WHERE b.exchange = p_exchange
               AND CASE b.exchange_type
                       WHEN 'direct' THEN b.routing_key = p_routing_key
                       WHEN 'topic' THEN p_routing_key ~ b.pattern
                       ELSE true
                   END
        );
        -- Nobody listens to these events: nothing is written, and the commit costs nothing.
        IF targets = '{}' THEN
            RETURN 0;
        END IF;
    END IF;

    FOR target IN
        SELECT m.name, m.message_ttl_seconds FROM tasker.celery_mailboxes AS m WHERE m.name = ANY (targets)
    LOOP
        INSERT INTO tasker.celery_mail (mailbox, priority, expires_at, message)
        VALUES (
            target.name,
            p_priority,
            clock_timestamp() + make_interval(secs => least(target.message_ttl_seconds, p_ttl_seconds)),
            p_message
        );
        PERFORM pg_notify('tasker_mail_' || md5(target.name), '');
        reached := reached + 1;
    END LOOP;

    FOR target IN
        SELECT q.name, q.pgmq_queue FROM tasker.celery_queues AS q WHERE q.name = ANY (targets) AND q.priority = 0
    LOOP
        pgmq_name := target.pgmq_queue;
        IF p_priority > 0 THEN
            pgmq_name := pgmq_name || '_p' || p_priority;
            PERFORM tasker.celery_declare_queue(target.name, pgmq_name, p_priority);
        END IF;
        EXECUTE format(
            'INSERT INTO pgmq.%I (vt, message) VALUES (clock_timestamp(), $1)', 'q_' || pgmq_name
        ) USING p_message::jsonb;
        PERFORM pg_notify('tasker_' || target.pgmq_queue, '');
        reached := reached + 1;
    END LOOP;

    -- Sent straight to a task queue that nobody declared yet: it waits there for its first worker. Without a name to make
    -- it under, the message was for a mailbox that has gone.
    IF reached = 0 AND p_exchange = '' AND p_pgmq_queue IS NOT NULL THEN
        PERFORM tasker.celery_declare_queue(p_routing_key, p_pgmq_queue);
        RETURN tasker.celery_publish(p_exchange, p_routing_key, p_message, p_priority, p_ttl_seconds, NULL);
    END IF;
    RETURN reached;
END
$$;

COMMENT ON FUNCTION tasker.celery_publish(text, text, text, smallint, double precision, text) IS
    'Routes one message, stores it and wakes its readers, in one call; returns how many queues and mailboxes it reached. p_exchange '''': p_routing_key is the queue itself, made under the name p_pgmq_queue if it is missing.';
