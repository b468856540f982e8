-- Writes the end of tasks, whoever decided it: the row, its audit, and the message for the finalizer where there is
-- after-work (else the task is final at once). Internal: the caller holds the locks and has ended every live step.
CREATE OR REPLACE FUNCTION tasker.end_tasks(
    task_uuids uuid[], from_states text[], to_states text[], open_steps integer[], failed_steps integer[], skipped_steps integer[],
    actor text, reason text, moment timestamptz, OUT finished jsonb, OUT queues text[])
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    messages jsonb[];
BEGIN
    queues := '{}';
    UPDATE tasker.tasks AS t
    SET state = k.state, active = 0, open = k.open, failed = k.failed, skipped = k.skipped, finished_at = moment,
        finalized_at = CASE WHEN n.has_after_work THEN NULL ELSE moment END,
        claimed_by = NULL, claimed_at = NULL, claim_expires_at = NULL
    FROM unnest(task_uuids, to_states, open_steps, failed_steps, skipped_steps) AS k(task_uuid, state, open, failed, skipped)
    CROSS JOIN LATERAL (SELECT x.ctid AS tid, x.named_task_id FROM tasker.tasks AS x WHERE x.task_uuid = k.task_uuid OFFSET 0) AS o
    CROSS JOIN LATERAL (SELECT x.has_after_work FROM tasker.named_tasks AS x WHERE x.named_task_id = o.named_task_id OFFSET 0) AS n
    WHERE t.ctid = o.tid;

    INSERT INTO tasker.task_transitions (task_uuid, from_state, to_state, finish_no, actor, reason)
    SELECT t.task_uuid, k.from_state, t.state, t.finish_no, actor, end_tasks.reason
    FROM unnest(task_uuids, from_states) AS k(task_uuid, from_state)
    CROSS JOIN LATERAL (SELECT x.task_uuid, x.state, x.finish_no FROM tasker.tasks AS x
                        WHERE x.task_uuid = k.task_uuid OFFSET 0) AS t;

    SELECT jsonb_agg(jsonb_build_object('task_uuid', t.task_uuid, 'state', t.state)),
           array_agg(jsonb_build_object('task_uuid', t.task_uuid)) FILTER (WHERE t.finalized_at IS NULL)
    INTO finished, messages
    FROM unnest(task_uuids) AS k(task_uuid)
    CROSS JOIN LATERAL (SELECT x.task_uuid, x.state, x.finalized_at FROM tasker.tasks AS x
                        WHERE x.task_uuid = k.task_uuid OFFSET 0) AS t;
    finished := coalesce(finished, '[]');
    IF messages IS NOT NULL THEN
        PERFORM tasker.queue_send('task_finalization', messages);
        queues := ARRAY['task_finalization'];
    END IF;
END
$$;
