CREATE OR REPLACE FUNCTION tasker.celery_bind(
    p_exchange text,
    p_exchange_type text,
    p_routing_key text,
    p_pattern text,
    p_queue text
)
RETURNS void
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Only a task queue's binding must survive a crash; a mailbox's goes with the mailbox.
    IF EXISTS (SELECT 1 FROM tasker.celery_mailboxes WHERE name = p_queue) THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    -- A pattern that PostgreSQL cannot read is refused here, not in everybody's publish.
    PERFORM '' ~ p_pattern;
    INSERT INTO tasker.celery_bindings AS b (exchange, queue, routing_key, exchange_type, pattern)
    VALUES (p_exchange, p_queue, p_routing_key, p_exchange_type, p_pattern)
    ON CONFLICT (exchange, queue, routing_key) DO UPDATE
        SET exchange_type = excluded.exchange_type,
            pattern = excluded.pattern
        WHERE (b.exchange_type, b.pattern) IS DISTINCT FROM (excluded.exchange_type, excluded.pattern);
END
$$;

COMMENT ON FUNCTION tasker.celery_bind(text, text, text, text, text) IS
    'Binds a queue or mailbox to an exchange. p_pattern: the routing key as a regular expression, for topic exchanges.';
