-- Writes the end of tasks, whoever decided it: the row, its audit, and the message for the finalizer where there is
-- after-work (else the task is final at once). Internal: the caller holds the locks and has ended every live step.
CREATE OR REPLACE FUNCTION tasker.end_tasks(
    task_uuids uuid[], from_states text[], to_states text[], open_steps integer[], failed_steps integer[], skipped_steps integer[],
    actor text, reason text, moment timestamptz, OUT finished jsonb, OUT queues text[])
LANGUAGE plpgsql
AS $$
DECLARE
    messages jsonb[];
BEGIN
    queues := '{}';
    WITH ended AS (
        UPDATE tasker.tasks AS t
        SET state = k.state, active = 0, open = k.open, failed = k.failed, skipped = k.skipped, finished_at = moment,
            finalized_at = CASE WHEN n.has_after_work THEN NULL ELSE moment END,
            claimed_by = NULL, claimed_at = NULL, claim_expires_at = NULL
        FROM unnest(task_uuids, from_states, to_states, open_steps, failed_steps, skipped_steps)
             AS k(task_uuid, from_state, state, open, failed, skipped)
        CROSS JOIN LATERAL (SELECT x.ctid AS tid, x.named_task_id FROM tasker.tasks AS x WHERE x.task_uuid = k.task_uuid OFFSET 0) AS o
        CROSS JOIN LATERAL (SELECT x.has_after_work FROM tasker.named_tasks AS x WHERE x.named_task_id = o.named_task_id OFFSET 0) AS n
        WHERE t.ctid = o.tid
        RETURNING t.task_uuid, k.from_state, t.state, t.finish_no, t.finalized_at
    ), audited AS (
        INSERT INTO tasker.task_transitions (task_uuid, from_state, to_state, finish_no, actor, reason)
        SELECT e.task_uuid, e.from_state, e.state, e.finish_no, actor, end_tasks.reason FROM ended AS e
    )
    SELECT jsonb_agg(jsonb_build_object('task_uuid', e.task_uuid, 'state', e.state)),
           array_agg(jsonb_build_object('task_uuid', e.task_uuid)) FILTER (WHERE e.finalized_at IS NULL)
    INTO finished, messages
    FROM ended AS e;
    finished := coalesce(finished, '[]');
    IF messages IS NOT NULL THEN
        PERFORM tasker.queue_send('task_finalization', messages);
        queues := ARRAY['task_finalization'];
    END IF;
END
$$;
