-- The sweep of the lifecycles: gives up steps that take or wait for longer than their workflow allows, and ends or pauses
-- their tasks. A page of open tasks at a time, from where the last call ended; harmless from many processes at once.
--
-- A step that is given up ends in "error" under whoever runs it, with a dead letter of the same reason, so that an operator
-- can retry it; its late outcome is stale. A task past its maximum gives up every live step and ends in error by that;
-- blocked steps stay pending, as in every task that failed. Nothing is cancelled: what is cancelled could not be retried.
-- With staleness_action manual_review the task is paused instead; resuming it starts its clocks anew.
--
-- Only tasks that are admitted, not paused and at least as old as the shortest limit there is are looked at; without a
-- lifecycle in any workflow there are none. Order of locks: task, then its live steps, all SKIP LOCKED; what is held by
-- others is left to the next round. All is decided again under the locks.
--
-- request: page (tasks looked at), limit (tasks acted on). Returns {looked, given_up (steps), paused (tasks), skipped, more,
-- tasks: [{task_uuid, reason, steps, action}], finished_tasks[], queues[], notify[]}.
CREATE OR REPLACE FUNCTION tasker.act_on_stuck_tasks(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    page constant integer := least(greatest(coalesce((request->>'page')::integer, 1000), 1), 10000);
    most constant integer := least(greatest(coalesce((request->>'limit')::integer, 100), 1), 1000);
    actor constant text := 'lifecycle';
    earliest integer;
    bound uuid;
    old record;
    id uuid;
    t record;
    live record;
    r record;
    counts record;
    ended record;
    looked integer := 0; given_up integer := 0; paused integer := 0; skipped integer := 0;
    is_over boolean;
    told jsonb[] := ARRAY[]::jsonb[];
    queues text[] := ARRAY[]::text[];
    finished jsonb := '[]'::jsonb;
    new_cursor uuid;
BEGIN
    PERFORM tasker.assert_read_committed('act_on_stuck_tasks');
    SELECT min((d.lifecycle->>'earliest_minutes')::integer) INTO earliest FROM tasker.named_tasks AS d WHERE d.lifecycle IS NOT NULL;
    IF earliest IS NULL THEN
        RETURN '{"looked": 0, "given_up": 0, "paused": 0, "skipped": 0, "more": false, "tasks": [], "finished_tasks": [], "queues": [], "notify": []}'::jsonb;
    END IF;
    -- Task uuids begin with the time of their creation, so that younger tasks need not even be looked at.
    bound := (lpad(to_hex((extract(epoch FROM tasker.now() - make_interval(mins => earliest)) * 1000)::bigint), 12, '0')
              || 'ffffffffffffffffffff')::uuid;
    SELECT array_agg(p.task_uuid ORDER BY p.task_uuid) AS all_of_them,
           array_agg(p.task_uuid ORDER BY p.task_uuid) FILTER (WHERE p.state = 'in_progress' AND n.lifecycle IS NOT NULL
               AND p.admitted_at <= tasker.now() - make_interval(mins => (n.lifecycle->>'earliest_minutes')::integer)) AS some
    INTO old
    FROM (SELECT x.task_uuid, x.named_task_id, x.state, x.admitted_at FROM tasker.tasks AS x
          WHERE x.finished_at IS NULL AND x.admitted_at IS NOT NULL AND x.task_uuid <= bound
            AND x.task_uuid > coalesce((SELECT c.lifecycle_cursor FROM tasker.coordinator AS c), '00000000-0000-0000-0000-000000000000')
          ORDER BY x.task_uuid LIMIT page) AS p
    CROSS JOIN LATERAL (SELECT d.lifecycle FROM tasker.named_tasks AS d WHERE d.named_task_id = p.named_task_id OFFSET 0) AS n;
    looked := coalesce(cardinality(old.all_of_them), 0);
    new_cursor := CASE WHEN looked = page THEN old.all_of_them[page] END;

    FOREACH id IN ARRAY coalesce(old.some, '{}') LOOP
        CONTINUE WHEN NOT EXISTS (SELECT FROM tasker.find_stuck_steps(id));
        PERFORM FROM tasker.tasks AS x WHERE x.task_uuid = id AND x.state = 'in_progress' FOR NO KEY UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            skipped := skipped + 1;
            CONTINUE;
        END IF;
        SELECT count(*)::integer AS n INTO live
        FROM (SELECT FROM tasker.workflow_steps AS x
              WHERE x.task_uuid = id AND x.state IN ('enqueued', 'in_progress', 'waiting_for_retry')
              ORDER BY x.task_uuid, x.position, x.map_index FOR NO KEY UPDATE SKIP LOCKED) AS s;
        SELECT x.state, x.active, x.finish_no INTO t FROM tasker.tasks AS x WHERE x.task_uuid = id;
        IF live.n <> t.active THEN
            skipped := skipped + 1;
            CONTINUE;
        END IF;
        SELECT array_agg(s.tid) FILTER (WHERE NOT f.pauses) AS tids, array_agg(f.step_position) FILTER (WHERE NOT f.pauses) AS positions,
               array_agg(f.step_map_index) FILTER (WHERE NOT f.pauses) AS maps, array_agg(s.fence) FILTER (WHERE NOT f.pauses) AS fences,
               array_agg(s.state) FILTER (WHERE NOT f.pauses) AS states, array_agg(s.executor) FILTER (WHERE NOT f.pauses) AS executors,
               array_agg(f.reason) FILTER (WHERE NOT f.pauses) AS reasons, array_agg(f.message) FILTER (WHERE NOT f.pauses) AS messages,
               array_agg(id) FILTER (WHERE NOT f.pauses) AS tasks,
               (array_agg(f.reason ORDER BY f.step_position))[1] AS reason,
               (array_agg(f.message ORDER BY f.step_position))[1] AS message, count(*) AS n
        INTO r
        FROM tasker.find_stuck_steps(id) AS f
        CROSS JOIN LATERAL (SELECT x.ctid AS tid, x.fence, x.state, x.executor FROM tasker.workflow_steps AS x
                            WHERE x.task_uuid = id AND x.position = f.step_position AND x.map_index = f.step_map_index OFFSET 0) AS s;
        CONTINUE WHEN r.n = 0;

        is_over := false;
        IF r.tids IS NULL THEN
            UPDATE tasker.tasks AS x SET state = 'paused', claimed_by = NULL, claimed_at = NULL, claim_expires_at = NULL
            WHERE x.task_uuid = id;
            INSERT INTO tasker.task_transitions (task_uuid, from_state, to_state, finish_no, actor, reason)
            VALUES (id, t.state, 'paused', t.finish_no, actor, r.reason || ': ' || r.message);
            paused := paused + 1;
        ELSE
            UPDATE tasker.workflow_steps AS s
            SET state = 'error', finished_at = clock_timestamp(),
                error = jsonb_build_object('type', k.reason, 'retryable', false, 'attempt', s.attempts, 'timeout', true,
                    'message', k.message || coalesce('; its last attempt failed: ' || left(s.error->>'message', 4096), ''))
            FROM unnest(r.tids, r.reasons, r.messages) AS k(tid, reason, message) WHERE s.ctid = k.tid;
            INSERT INTO tasker.workflow_step_transitions (task_uuid, position, map_index, fence, from_state, to_state, executor, reason)
            SELECT id, k.p, k.m, k.f, k.s, 'error', k.e, k.r
            FROM unnest(r.positions, r.maps, r.fences, r.states, r.executors, r.reasons) AS k(p, m, f, s, e, r);
            -- A delegated step's deadline is made due, which revokes its Celery task; any other timer goes.
            UPDATE tasker.step_timers AS w SET due_at = tasker.now(), set_at = tasker.now()
            FROM unnest(r.positions, r.maps) AS k(p, m)
            WHERE w.task_uuid = id AND w.position = k.p AND w.map_index = k.m AND w.kind = 'deadline';
            DELETE FROM tasker.step_timers AS w USING unnest(r.positions, r.maps) AS k(p, m)
            WHERE w.task_uuid = id AND w.position = k.p AND w.map_index = k.m AND w.kind <> 'deadline';
            PERFORM tasker.bury_steps(r.tasks, r.positions, r.maps, NULL);
            PERFORM tasker.publish_step_events(r.tasks, r.positions, r.maps, NULL);
            given_up := given_up + cardinality(r.tids);
            queues := queues || 'orchestration_step_results'::text;
            IF cardinality(r.tids) = t.active THEN
                SELECT count(*) FILTER (WHERE s.finished_at IS NULL)::integer AS open,
                       count(*) FILTER (WHERE s.state = 'error')::integer AS failed,
                       count(*) FILTER (WHERE s.state = 'skipped')::integer AS skipped
                INTO counts FROM tasker.workflow_steps AS s WHERE s.task_uuid = id;
                SELECT * INTO ended FROM tasker.end_tasks(ARRAY[id], ARRAY[t.state], ARRAY['error'], ARRAY[counts.open],
                    ARRAY[counts.failed], ARRAY[counts.skipped], actor, r.reason || ': ' || r.message, clock_timestamp());
                finished := finished || ended.finished; queues := queues || ended.queues;
                is_over := true;
            ELSE
                UPDATE tasker.tasks AS x SET active = x.active - cardinality(r.tids) WHERE x.task_uuid = id;
            END IF;
        END IF;
        told := told || jsonb_build_object('task_uuid', id, 'reason', r.reason, 'steps', coalesce(cardinality(r.tids), 0),
                                           'action', CASE WHEN r.tids IS NULL THEN 'paused' WHEN is_over THEN 'ended' ELSE 'gave_up_steps' END);
        IF cardinality(told) >= most THEN
            new_cursor := id;
            EXIT;
        END IF;
    END LOOP;

    UPDATE tasker.coordinator AS c SET lifecycle_cursor = new_cursor WHERE c.lifecycle_cursor IS DISTINCT FROM new_cursor;
    SELECT coalesce(array_agg(DISTINCT q), '{}') INTO queues FROM unnest(queues) AS q;
    RETURN jsonb_build_object(
        'looked', looked, 'given_up', given_up, 'paused', paused, 'skipped', skipped, 'more', new_cursor IS NOT NULL,
        'tasks', to_jsonb(told), 'finished_tasks', finished,
        'queues', to_jsonb(tasker.queues_with_idle_consumer(queues)),
        'notify', CASE WHEN finished = '[]' THEN '[]'::jsonb ELSE to_jsonb(tasker.waiting_channels()) END);
END
$$;
