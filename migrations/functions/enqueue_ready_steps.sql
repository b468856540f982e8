-- Admits tasks: whatever of them can run is enqueued; a task with nothing left to run ends here. Set-based and idempotent:
-- tasks that are not pending, or that another processor has claimed, are left alone. The caller has checked the contexts.
-- request: {task_uuids[], processor}. Returns {admitted, queues[], finished_tasks[], notify[]}.
CREATE OR REPLACE FUNCTION tasker.enqueue_ready_steps(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    admitted uuid[];
    r record;
    queues text[] := ARRAY[]::text[];
    finished jsonb := '[]'::jsonb;
    empty_ones uuid[];
    ended record;
BEGIN
    PERFORM tasker.assert_read_committed('enqueue_ready_steps');
    SELECT array_agg(t.task_uuid) INTO admitted
    FROM (SELECT DISTINCT u.id::uuid AS task_uuid FROM jsonb_array_elements_text(request->'task_uuids') AS u(id)
          ORDER BY 1 OFFSET 0) AS k
    CROSS JOIN LATERAL (
        SELECT x.task_uuid FROM tasker.tasks AS x
        WHERE x.task_uuid = k.task_uuid AND x.state = 'pending' AND x.admitted_at IS NULL AND NOT x.scheduled
          AND (x.claimed_by IS NULL OR x.claimed_by = request->>'processor' OR x.claim_expires_at <= tasker.now())
        FOR NO KEY UPDATE) AS t;
    IF admitted IS NULL THEN
        RETURN '{"admitted": 0, "queues": [], "finished_tasks": [], "notify": []}'::jsonb;
    END IF;

    WITH ready AS MATERIALIZED (
        SELECT s.tid, s.task_uuid, s.step_uuid, s.position, s.map_index, s.fence, n.queue
        FROM unnest(admitted) AS a(task_uuid)
        CROSS JOIN LATERAL (SELECT x.named_task_id FROM tasker.tasks AS x WHERE x.task_uuid = a.task_uuid OFFSET 0) AS t
        CROSS JOIN LATERAL (SELECT x.ctid AS tid, x.* FROM tasker.workflow_steps AS x
                            WHERE x.task_uuid = a.task_uuid AND x.state = 'pending' AND x.unmet = 0
                            ORDER BY x.position, x.map_index FOR NO KEY UPDATE) AS s
        CROSS JOIN LATERAL (SELECT x.queue FROM tasker.named_steps AS x
                            WHERE x.named_task_id = t.named_task_id AND x.position = s.position OFFSET 0) AS n
    )
    SELECT array_agg(y.tid) AS tids, array_agg(y.task_uuid) AS tasks, array_agg(y.step_uuid) AS steps,
           array_agg(y.position) AS positions, array_agg(y.map_index) AS maps, array_agg(y.fence) AS fences,
           array_agg(y.queue) AS queues, array_agg(-1) AS parents
    INTO r FROM ready AS y;

    UPDATE tasker.tasks AS t
    SET state = 'in_progress', admitted_at = clock_timestamp(), context_checked = true, active = k.n,
        claimed_by = NULL, claimed_at = NULL, claim_expires_at = NULL
    FROM (SELECT a.task_uuid, (SELECT count(*) FROM unnest(r.tasks) AS y(task_uuid) WHERE y.task_uuid = a.task_uuid) AS n
          FROM unnest(admitted) AS a(task_uuid) OFFSET 0) AS k
    CROSS JOIN LATERAL (SELECT x.ctid AS tid FROM tasker.tasks AS x WHERE x.task_uuid = k.task_uuid OFFSET 0) AS o
    WHERE t.ctid = o.tid;
    INSERT INTO tasker.task_transitions (task_uuid, from_state, to_state, finish_no, actor, reason)
    SELECT a.task_uuid, 'pending', 'in_progress', t.finish_no, request->>'processor', 'admitted'
    FROM unnest(admitted) AS a(task_uuid)
    CROSS JOIN LATERAL (SELECT x.finish_no FROM tasker.tasks AS x WHERE x.task_uuid = a.task_uuid OFFSET 0) AS t;

    IF r.tids IS NOT NULL THEN
        UPDATE tasker.workflow_steps AS s SET state = 'enqueued' FROM unnest(r.tids) AS k(tid) WHERE s.ctid = k.tid;
        INSERT INTO tasker.workflow_step_transitions (task_uuid, position, map_index, fence, from_state, to_state, reason)
        SELECT k.t, k.p, k.m, k.f, 'pending', 'enqueued', 'admitted'
        FROM unnest(r.tasks, r.positions, r.maps, r.fences) AS k(t, p, m, f);
        queues := tasker.send_step_messages(r.tasks, r.steps, r.positions, r.maps, r.queues, r.parents);
    END IF;
    SELECT array_agg(a.task_uuid) INTO empty_ones
    FROM unnest(admitted) AS a(task_uuid) WHERE a.task_uuid <> ALL (coalesce(r.tasks, '{}'));
    IF empty_ones IS NOT NULL THEN
        SELECT * INTO ended FROM tasker.finish_tasks(empty_ones);
        finished := ended.finished; queues := queues || ended.queues;
    END IF;
    RETURN jsonb_build_object(
        'admitted', cardinality(admitted), 'finished_tasks', finished, 'queues', to_jsonb(tasker.queues_with_idle_consumer(queues)),
        'notify', CASE WHEN finished = '[]' THEN '[]'::jsonb ELSE to_jsonb(tasker.waiting_channels()) END);
END
$$;
