-- Claims tasks that wait for admission and are due, by priority and age. Scheduled ones whose time has come join the due ones
-- first, so that future tasks never stand in front. A claim keeps others away while the context is checked in Python; it
-- expires, and anybody may go on.
-- request: {processor, limit, timeout_seconds}. Returns {tasks: [{task_uuid, namespace, name, version, named_task_id, context
-- (if it must be checked), check_context}], next_due_seconds, next_schedule_seconds (when a schedule is to be looked at: whoever
-- admits tasks fires those, too)}.
CREATE OR REPLACE FUNCTION tasker.claim_ready_tasks(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    quantity constant integer := least(greatest(coalesce((request->>'limit')::integer, 20), 1), 1000);
    lasting constant interval := make_interval(secs => greatest(coalesce((request->>'timeout_seconds')::double precision, 60), 1));
    claimed jsonb;
    next_due double precision;
    next_schedule double precision;
BEGIN
    PERFORM tasker.assert_read_committed('claim_ready_tasks');
    IF coalesce(request->>'processor', '') = '' THEN
        RAISE EXCEPTION 'a claim needs a processor' USING ERRCODE = 'TK001', COLUMN = 'processor';
    END IF;
    WITH due AS MATERIALIZED (
        SELECT x.ctid AS tid FROM tasker.tasks AS x
        WHERE x.admitted_at IS NULL AND x.finished_at IS NULL AND x.scheduled AND x.run_at <= tasker.now()
        ORDER BY x.run_at LIMIT quantity * 5 FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE tasker.tasks AS t SET scheduled = false FROM due AS d WHERE t.ctid = d.tid;

    WITH ready AS MATERIALIZED (
        SELECT x.ctid AS tid FROM tasker.tasks AS x
        WHERE x.admitted_at IS NULL AND x.finished_at IS NULL AND NOT x.scheduled AND x.state = 'pending'
          AND (x.claim_expires_at IS NULL OR x.claim_expires_at <= tasker.now())
        ORDER BY x.priority DESC, x.task_uuid LIMIT quantity FOR NO KEY UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE tasker.tasks AS t
        SET claimed_by = request->>'processor', claimed_at = tasker.now(), claim_expires_at = tasker.now() + lasting
        FROM ready AS r WHERE t.ctid = r.tid
        RETURNING t.task_uuid, t.named_task_id, t.context_checked, t.priority
    )
    SELECT jsonb_agg(jsonb_build_object(
               'task_uuid', t.task_uuid, 'namespace', n.namespace, 'name', n.name, 'version', n.version,
               'named_task_id', t.named_task_id, 'check_context', NOT t.context_checked,
               'context', CASE WHEN NOT t.context_checked THEN c.context END) ORDER BY t.priority DESC, t.task_uuid)
    INTO claimed
    FROM taken AS t
    CROSS JOIN LATERAL (SELECT x.namespace, x.name, x.version FROM tasker.named_tasks AS x
                        WHERE x.named_task_id = t.named_task_id OFFSET 0) AS n
    CROSS JOIN LATERAL (SELECT x.context FROM tasker.task_contexts AS x WHERE x.task_uuid = t.task_uuid OFFSET 0) AS c;

    SELECT extract(epoch FROM x.run_at - tasker.now()) INTO next_due
    FROM tasker.tasks AS x WHERE x.admitted_at IS NULL AND x.finished_at IS NULL AND x.scheduled ORDER BY x.run_at LIMIT 1;
    SELECT greatest(extract(epoch FROM x.look_at - tasker.now()), 0) INTO next_schedule
    FROM tasker.schedules AS x WHERE x.paused_at IS NULL ORDER BY x.look_at LIMIT 1;
    RETURN jsonb_build_object('tasks', coalesce(claimed, '[]'), 'next_schedule_seconds', next_schedule,
                              'next_due_seconds', CASE WHEN next_due > 0 THEN next_due WHEN next_due <= 0 THEN 0 END);
END
$$;
