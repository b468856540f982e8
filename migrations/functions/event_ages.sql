-- How long the oldest domain event of each namespace has waited for a consumer, or for the end of one, in seconds; a namespace
-- without any is left out. One look at the front of each queue, whatever waits in it. Internal.
CREATE OR REPLACE FUNCTION tasker.event_ages() RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    n record;
    age double precision;
    ages jsonb := '{}'::jsonb;
BEGIN
    FOR n IN SELECT s.name, 'q_' || s.name || '_domain_events' AS queue FROM tasker.namespaces AS s LOOP
        CONTINUE WHEN to_regclass(format('pgmq.%I', n.queue)) IS NULL;
        EXECUTE format('SELECT extract(epoch FROM clock_timestamp() - m.enqueued_at) FROM pgmq.%I AS m ORDER BY m.msg_id LIMIT 1', n.queue)
            INTO age;
        IF age IS NOT NULL THEN
            ages := ages || jsonb_build_object(n.name, age);
        END IF;
    END LOOP;
    RETURN ages;
END
$$;
