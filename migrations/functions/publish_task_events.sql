-- Sends the domain events of a task that has just become final. Internal: finalize_task calls it, once for each finish.
-- said: {events: {name: payload}, rejected_events: {name: {reason, message, payload}}}, as whoever held the claim made them.
CREATE OR REPLACE FUNCTION tasker.publish_task_events(task_uuid uuid, said jsonb) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    t record;
    batch record;
BEGIN
    SELECT x.task_uuid, x.state, x.finish_no, x.correlation_id, x.total, x.open, x.failed, x.skipped,
           d.namespace, d.name, d.version, d.definition->'domain_events' AS events,
           CASE x.state WHEN 'complete' THEN 'success' WHEN 'error' THEN 'permanent_failure' ELSE x.state END AS condition
    INTO t
    FROM tasker.tasks AS x JOIN tasker.named_tasks AS d ON d.named_task_id = x.named_task_id
    WHERE x.task_uuid = publish_task_events.task_uuid;
    IF jsonb_typeof(t.events) IS DISTINCT FROM 'array' THEN
        RETURN;
    END IF;
    WITH event AS MATERIALIZED (
        SELECT v.no, r.rejected,
               jsonb_build_object(
                   'event_id', md5(t.task_uuid || ':' || t.finish_no || ':' || (v.event->>'name'))::uuid,
                   'name', v.event->>'name', 'version', 1, 'at', clock_timestamp(), 'namespace', t.namespace, 'task', t.name,
                   'task_version', t.version, 'step', NULL, 'task_uuid', t.task_uuid, 'step_uuid', NULL, 'fence', NULL,
                   'attempt', NULL, 'finish_no', t.finish_no, 'state', t.state, 'correlation_id', t.correlation_id,
                   'condition', t.condition,
                   'payload', CASE WHEN r.rejected IS NOT NULL THEN r.rejected->'payload'
                                   WHEN said->'events' ? (v.event->>'name') THEN said->'events'->(v.event->>'name')
                                   ELSE jsonb_build_object('state', t.state, 'steps', t.total, 'open', t.open, 'failed', t.failed,
                                                           'skipped', t.skipped) END) AS message
        FROM jsonb_array_elements(t.events) WITH ORDINALITY AS v(event, no)
        CROSS JOIN LATERAL (SELECT CASE
            WHEN said->'rejected_events' ? (v.event->>'name') THEN said->'rejected_events'->(v.event->>'name')
            WHEN tasker.json_is_deep(said->'events'->(v.event->>'name'))
                THEN '{"reason": "event_not_valid", "message": "the payload is nested deeper than 200 levels"}'
            END AS rejected OFFSET 0) AS r
        WHERE coalesce(v.event->>'delivery', 'durable') <> 'fast'
          AND coalesce(v.event->>'condition', 'success') IN
              ('always', t.condition, CASE WHEN t.state = 'error' THEN 'failure' END)
    )
    SELECT array_agg(m.message ORDER BY m.no) FILTER (WHERE m.rejected IS NULL) AS messages,
           array_agg(m.message ORDER BY m.no) FILTER (WHERE m.rejected IS NOT NULL) AS refused,
           array_agg(m.rejected ORDER BY m.no) FILTER (WHERE m.rejected IS NOT NULL) AS why
    INTO batch FROM event AS m;
    PERFORM tasker.send_events(t.namespace || '_domain_events', batch.messages, batch.refused, batch.why);
END
$$;
