-- Sends the domain events of steps that have just come to an outcome, in the transaction that records it. Internal; called
-- by whoever decides an outcome, after the step's row was written. Of other steps nothing is sent.
--
-- said: of an outcome that was reported, the outcome: its "events" {name: payload} take the place of the step's result or
-- error, its "rejected_events" {name: {reason, message, payload}} go to dead letters instead. Null where the engine itself
-- decided (poison, a lifecycle, an operator).
--
-- An event's id is made of step, fence and name, so that its fast delivery has the same: a fence has one reported outcome.
-- What the engine decides may come again under a fence, so that has ids of its own.
CREATE OR REPLACE FUNCTION tasker.publish_step_events(
    task_uuids uuid[], positions integer[], map_indexes integer[], said jsonb[]) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    batch record;
BEGIN
    FOR batch IN
        WITH ended AS MATERIALIZED (
            SELECT k.no, k.task_uuid, k.said, s.step_uuid, s.fence, s.attempts, s.state, n.publishes_events,
                   n.name AS step, d.namespace, d.name AS task, d.version, t.correlation_id,
                   CASE s.state WHEN 'error' THEN 'permanent_failure' WHEN 'waiting_for_retry' THEN 'retryable_failure'
                                ELSE 'success' END AS condition,
                   CASE WHEN s.state IN ('error', 'waiting_for_retry') THEN s.error ELSE s.results END AS payload
            FROM unnest(task_uuids, positions, map_indexes, publish_step_events.said)
                 WITH ORDINALITY AS k(task_uuid, step_position, map_index, said, no)
            CROSS JOIN LATERAL (SELECT x.named_task_id, x.correlation_id FROM tasker.tasks AS x
                                WHERE x.task_uuid = k.task_uuid OFFSET 0) AS t
            CROSS JOIN LATERAL (SELECT x.name, x.publishes_events FROM tasker.named_steps AS x
                                WHERE x.named_task_id = t.named_task_id AND x.position = k.step_position
                                  AND x.publishes_events IS NOT NULL OFFSET 0) AS n
            CROSS JOIN LATERAL (SELECT x.namespace, x.name, x.version FROM tasker.named_tasks AS x
                                WHERE x.named_task_id = t.named_task_id OFFSET 0) AS d
            CROSS JOIN LATERAL (SELECT x.step_uuid, x.fence, x.attempts, x.state, x.results, x.error FROM tasker.workflow_steps AS x
                                WHERE x.task_uuid = k.task_uuid AND x.position = k.step_position AND x.map_index = k.map_index
                                OFFSET 0) AS s
        ), event AS MATERIALIZED (
            SELECT e.no, v.no AS event_no, e.namespace, r.rejected,
                   jsonb_build_object(
                       'event_id', CASE WHEN e.said IS NULL THEN gen_random_uuid()
                                        ELSE md5(e.step_uuid || ':' || e.fence || ':' || (v.event->>'name'))::uuid END,
                       'name', v.event->>'name', 'version', 1, 'at', clock_timestamp(), 'namespace', e.namespace, 'task', e.task,
                       'task_version', e.version, 'step', e.step, 'task_uuid', e.task_uuid, 'step_uuid', e.step_uuid,
                       'fence', e.fence, 'attempt', e.attempts, 'finish_no', NULL, 'state', e.state,
                       'correlation_id', e.correlation_id, 'condition', e.condition,
                       'payload', CASE WHEN r.rejected IS NOT NULL THEN r.rejected->'payload'
                                       WHEN e.said->'events' ? (v.event->>'name') THEN e.said->'events'->(v.event->>'name')
                                       ELSE e.payload END) AS message
            FROM ended AS e
            CROSS JOIN LATERAL jsonb_array_elements(e.publishes_events) WITH ORDINALITY AS v(event, no)
            CROSS JOIN LATERAL (SELECT CASE
                WHEN e.said->'rejected_events' ? (v.event->>'name') THEN e.said->'rejected_events'->(v.event->>'name')
                WHEN tasker.json_is_deep(e.said->'events'->(v.event->>'name'))
                    THEN '{"reason": "event_not_valid", "message": "the payload is nested deeper than 200 levels"}'
                END AS rejected OFFSET 0) AS r
            WHERE coalesce(v.event->>'delivery', 'durable') <> 'fast'
              AND coalesce(v.event->>'condition', 'success') IN
                  ('always', e.condition, CASE WHEN e.condition <> 'success' THEN 'failure' END)
        )
        SELECT m.namespace || '_domain_events' AS queue,
               array_agg(m.message ORDER BY m.no, m.event_no) FILTER (WHERE m.rejected IS NULL) AS messages,
               array_agg(m.message ORDER BY m.no, m.event_no) FILTER (WHERE m.rejected IS NOT NULL) AS refused,
               array_agg(m.rejected ORDER BY m.no, m.event_no) FILTER (WHERE m.rejected IS NOT NULL) AS why
        FROM event AS m GROUP BY m.namespace
    LOOP
        PERFORM tasker.send_events(batch.queue, batch.messages, batch.refused, batch.why);
    END LOOP;
END
$$;
