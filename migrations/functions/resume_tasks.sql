-- Resumes paused tasks. Every enqueued step gets a message, unconditionally: one that lies on a queue may be in the hands of
-- a claim that still reads "paused" and will drop it. Waiting steps without a timer become due now. A task that was never
-- admitted goes back to waiting for admission. request: {task_uuids[], by, reason}.
-- Returns {tasks: [{task_uuid, changed, state}], queues[], notify[]}.
CREATE OR REPLACE FUNCTION tasker.resume_tasks(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    id uuid;
    t record;
    r record;
    told jsonb[] := ARRAY[]::jsonb[];
    queues text[] := ARRAY[]::text[];
BEGIN
    PERFORM tasker.assert_read_committed('resume_tasks');
    FOR id IN SELECT DISTINCT tasker.to_uuid(u.id, 'task_uuids') FROM jsonb_array_elements_text(request->'task_uuids') AS u(id) ORDER BY 1 LOOP
        PERFORM FROM tasker.tasks AS x WHERE x.task_uuid = id FOR NO KEY UPDATE;
        SELECT x.state, x.finish_no, x.admitted_at, x.named_task_id INTO t FROM tasker.tasks AS x WHERE x.task_uuid = id;
        IF t.state IS DISTINCT FROM 'paused' THEN
            told := told || jsonb_build_object('task_uuid', id, 'changed', false, 'state', t.state);
            CONTINUE;
        END IF;
        UPDATE tasker.tasks AS x SET state = CASE WHEN t.admitted_at IS NULL THEN 'pending' ELSE 'in_progress' END
        WHERE x.task_uuid = id;
        INSERT INTO tasker.task_transitions (task_uuid, from_state, to_state, finish_no, actor, reason)
        VALUES (id, 'paused', CASE WHEN t.admitted_at IS NULL THEN 'pending' ELSE 'in_progress' END, t.finish_no,
                request->>'by', request->>'reason');
        told := told || jsonb_build_object('task_uuid', id, 'changed', true,
                                           'state', CASE WHEN t.admitted_at IS NULL THEN 'pending' ELSE 'in_progress' END);
        IF t.admitted_at IS NULL THEN
            queues := queues || 'admission'::text;
            CONTINUE;
        END IF;
        -- Running steps too: a release takes no task lock. One that committed after the look below would leave a message that a
        -- claim, still reading "paused", drops.
        PERFORM FROM tasker.workflow_steps AS x
        WHERE x.task_uuid = id AND x.state IN ('enqueued', 'in_progress', 'waiting_for_retry')
        ORDER BY x.task_uuid, x.position, x.map_index FOR NO KEY UPDATE;
        SELECT array_agg(s.task_uuid) AS tasks, array_agg(s.step_uuid) AS steps, array_agg(s.position) AS positions,
               array_agg(s.map_index) AS maps, array_agg(n.queue) AS queues, array_agg(-1) AS parents
        INTO r
        FROM (SELECT x.* FROM tasker.workflow_steps AS x WHERE x.task_uuid = id AND x.state = 'enqueued'
                AND tasker.has_no_timer(x.task_uuid, x.position, x.map_index)
              ORDER BY x.task_uuid, x.position, x.map_index OFFSET 0) AS s
        CROSS JOIN LATERAL (SELECT x.queue FROM tasker.named_steps AS x
                            WHERE x.named_task_id = t.named_task_id AND x.position = s.position OFFSET 0) AS n;
        IF r.tasks IS NOT NULL THEN
            queues := queues || tasker.send_step_messages(r.tasks, r.steps, r.positions, r.maps, r.queues, r.parents);
        END IF;
        INSERT INTO tasker.step_timers (task_uuid, position, map_index, kind, queue, due_at, set_at, fence)
        SELECT s.task_uuid, s.position, s.map_index, 'retry', n.queue, tasker.now(), tasker.now(), s.fence
        FROM (SELECT x.* FROM tasker.workflow_steps AS x WHERE x.task_uuid = id AND x.state = 'waiting_for_retry' OFFSET 0) AS s
        CROSS JOIN LATERAL (SELECT x.queue FROM tasker.named_steps AS x
                            WHERE x.named_task_id = t.named_task_id AND x.position = s.position OFFSET 0) AS n
        ON CONFLICT ON CONSTRAINT step_timers_pkey DO NOTHING;
    END LOOP;
    PERFORM pg_notify('tasker_' || q, '') FROM unnest(queues) AS q;
    RETURN jsonb_build_object('tasks', to_jsonb(told), 'queues', to_jsonb(queues), 'notify', '[]'::jsonb);
END
$$;
