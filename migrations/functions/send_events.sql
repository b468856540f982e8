-- Puts domain events into their queue, and those that are not what their workflow promises into dead letters, from where
-- they can be sent mended. Internal.
CREATE OR REPLACE FUNCTION tasker.send_events(queue text, messages jsonb[], refused jsonb[], why jsonb[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF messages IS NOT NULL THEN
        -- It was made when the workflow was registered; a queue that somebody dropped must not stop the steps.
        IF to_regclass(format('pgmq.%I', 'q_' || queue)) IS NULL THEN
            PERFORM tasker.queue_ensure(queue);
        END IF;
        PERFORM tasker.queue_send(queue, messages);
    END IF;
    IF refused IS NOT NULL THEN
        INSERT INTO tasker.dead_letters (kind, queue, reason, snapshot)
        SELECT 'message', send_events.queue, coalesce(m.why->>'reason', 'event_not_valid'),
               jsonb_build_object('message', m.message, 'why', m.why->>'message')
        FROM unnest(refused, send_events.why) AS m(message, why);
    END IF;
END
$$;
