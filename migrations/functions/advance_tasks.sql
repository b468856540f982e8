-- What follows once steps are satisfied or have failed: dependents' counters, ready steps, the tasks' counters, and the end
-- of tasks with nothing left. Internal: every caller holds the locks of these tasks and has settled the steps themselves.
--
-- sat_*: steps that now satisfy dependencies, and whether a dependent may be continued by the caller's executor.
-- left_tasks: one entry for every step that left the live states, satisfied or not.
-- A ready step is continued (claimed at once for executor "me", in the receipt of call_no) if that executor serves its queue
-- and the limits allow; each parent hands on one branch, the others are published. In a task that was not admitted yet (an
-- operator resolved a step of it) nothing becomes ready: admission looks for what can run.
CREATE OR REPLACE FUNCTION tasker.advance_tasks(
    sat_tasks uuid[], sat_positions integer[], sat_continue boolean[], left_tasks uuid[],
    me uuid, call_no bigint, served text[], continue_limit integer, budget_ms double precision,
    OUT finished jsonb, OUT queues text[], OUT next_tasks uuid[], OUT next_positions integer[], OUT next_maps integer[])
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    d_rows tid[]; d_tasks uuid[]; d_positions integer[]; d_counts integer[]; d_parents integer[]; d_ready boolean[];
    d_steps uuid[]; d_fences integer[]; d_queues text[]; d_states text[]; d_may boolean[]; d_expected double precision[];
    d_paused boolean[];
    taken integer := 0;
    spent double precision := 0;
    last_parent text := '';
    r record;
    done uuid[];
    open_queues text[] := ARRAY[]::text[];
BEGIN
    finished := '[]'; queues := '{}'; next_tasks := '{}'; next_positions := '{}'; next_maps := '{}';

    -- The dependents of what was satisfied, each once, with how many of its dependencies that were and which was the last.
    IF cardinality(sat_tasks) > 0 THEN
        WITH edges AS MATERIALIZED (
            SELECT k.task_uuid, e.child, k.step_position, k.may, t.named_task_id, t.paused, t.admitted
            FROM unnest(sat_tasks, sat_positions, sat_continue) AS k(task_uuid, step_position, may)
            CROSS JOIN LATERAL (SELECT x.named_task_id, x.state = 'paused' AS paused, x.admitted_at IS NOT NULL AS admitted
                                FROM tasker.tasks AS x
                                WHERE x.task_uuid = k.task_uuid OFFSET 0) AS t
            CROSS JOIN LATERAL (SELECT x.dependents FROM tasker.named_steps AS x
                                WHERE x.named_task_id = t.named_task_id AND x.position = k.step_position OFFSET 0) AS p
            CROSS JOIN unnest(p.dependents) AS e(child)
        ), children AS MATERIALIZED (
            SELECT g.task_uuid, g.child, g.named_task_id, g.paused, g.admitted, count(*)::integer AS n, max(g.step_position) AS parent,
                   bool_or(g.may) AS may
            FROM edges AS g GROUP BY g.task_uuid, g.child, g.named_task_id, g.paused, g.admitted
            ORDER BY g.task_uuid, g.child
        )
        SELECT array_agg(s.tid), array_agg(c.task_uuid), array_agg(c.child), array_agg(c.n), array_agg(c.parent),
               array_agg(s.state = 'pending' AND s.unmet = c.n AND c.admitted), array_agg(s.step_uuid), array_agg(s.fence),
               array_agg(d.queue), array_agg(c.may), array_agg(d.expected_ms), array_agg(c.paused)
        INTO d_rows, d_tasks, d_positions, d_counts, d_parents, d_ready, d_steps, d_fences, d_queues, d_may, d_expected, d_paused
        FROM children AS c
        CROSS JOIN LATERAL (SELECT x.ctid AS tid, x.state, x.unmet, x.step_uuid, x.fence FROM tasker.workflow_steps AS x
                            WHERE x.task_uuid = c.task_uuid AND x.position = c.child AND x.map_index = 0
                            FOR NO KEY UPDATE) AS s
        CROSS JOIN LATERAL (SELECT x.queue, x.expected_ms FROM tasker.named_steps AS x
                            WHERE x.named_task_id = c.named_task_id AND x.position = c.child OFFSET 0) AS d;
    END IF;

    IF d_tasks IS NOT NULL THEN
        IF continue_limit > 0 AND true = ANY (d_ready) THEN
            SELECT coalesce(array_agg(n.queue), '{}') INTO open_queues
            FROM unnest(served) AS q(name) JOIN tasker.namespaces AS n ON n.queue = q.name WHERE n.paused_at IS NULL;
        END IF;
        d_states := array_fill(NULL::text, ARRAY[cardinality(d_tasks)]);
        FOR i IN 1 .. cardinality(d_tasks) LOOP
            CONTINUE WHEN NOT d_ready[i];
            d_states[i] := 'enqueued';
            CONTINUE WHEN taken >= continue_limit OR NOT d_may[i] OR d_paused[i] OR d_queues[i] <> ALL (open_queues)
                       OR d_tasks[i]::text || d_parents[i] = last_parent
                       OR (taken > 0 AND spent + coalesce(d_expected[i], budget_ms) > budget_ms);
            d_states[i] := 'in_progress';
            taken := taken + 1;
            spent := spent + coalesce(d_expected[i], budget_ms);
            last_parent := d_tasks[i]::text || d_parents[i];
        END LOOP;

        IF taken > 0 THEN
            INSERT INTO tasker.step_claims (executor, call_no, task_uuids, positions, map_indexes, fences)
            SELECT me, advance_tasks.call_no, array_agg(k.task_uuid), array_agg(k.step_position), array_agg(0), array_agg(k.fence + 1)
            FROM unnest(d_tasks, d_positions, d_fences, d_states) AS k(task_uuid, step_position, fence, state)
            WHERE k.state = 'in_progress'
            ON CONFLICT DO NOTHING;
            IF NOT FOUND THEN
                -- This call was made before and has its receipt already: what is ready now goes to the queues.
                taken := 0;
                d_states := array_replace(d_states, 'in_progress', 'enqueued');
            END IF;
        END IF;

        UPDATE tasker.workflow_steps AS s
        SET unmet = s.unmet - k.n, state = coalesce(k.state, s.state),
            fence = s.fence + c.one, attempts = s.attempts + c.one,
            executor = CASE c.one WHEN 1 THEN me ELSE s.executor END,
            started_at = CASE c.one WHEN 1 THEN clock_timestamp() ELSE s.started_at END
        FROM unnest(d_rows, d_counts, d_states) AS k(tid, n, state)
        CROSS JOIN LATERAL (SELECT CASE WHEN k.state = 'in_progress' THEN 1 ELSE 0 END AS one) AS c
        WHERE s.ctid = k.tid;

        IF true = ANY (d_ready) THEN
            INSERT INTO tasker.workflow_step_transitions
                (task_uuid, position, map_index, fence, from_state, to_state, executor, reason)
            SELECT k.task_uuid, k.step_position, 0, CASE k.state WHEN 'in_progress' THEN k.fence + 1 ELSE k.fence END,
                   'pending', k.state, CASE k.state WHEN 'in_progress' THEN me END,
                   CASE k.state WHEN 'in_progress' THEN 'continued' ELSE 'ready' END
            FROM unnest(d_tasks, d_positions, d_fences, d_states) AS k(task_uuid, step_position, fence, state)
            WHERE k.state IS NOT NULL;
        END IF;

        IF taken > 0 THEN
            SELECT array_agg(k.task_uuid), array_agg(k.step_position), array_agg(0)
            INTO next_tasks, next_positions, next_maps
            FROM unnest(d_tasks, d_positions, d_states) AS k(task_uuid, step_position, state) WHERE k.state = 'in_progress';
        END IF;
        -- In a paused task ready steps are enqueued without a message; resume sends it.
        SELECT array_agg(k.task_uuid) AS tasks, array_agg(k.step_uuid) AS steps, array_agg(k.step_position) AS positions,
               array_agg(0) AS maps, array_agg(k.queue) AS queues, array_agg(k.parent) AS parents
        INTO r
        FROM unnest(d_tasks, d_steps, d_positions, d_queues, d_parents, d_states, d_paused)
             AS k(task_uuid, step_uuid, step_position, queue, parent, state, paused)
        WHERE k.state = 'enqueued' AND NOT k.paused;
        IF r.tasks IS NOT NULL THEN
            queues := tasker.send_step_messages(r.tasks, r.steps, r.positions, r.maps, r.queues, r.parents);
        END IF;
    END IF;

    -- The task row is written only if its counter changes: a chain hands its one live step on and leaves it alone.
    WITH changed AS MATERIALIZED (
        SELECT x.task_uuid, sum(x.delta)::integer AS delta FROM (
            SELECT l.task_uuid, -1 AS delta FROM unnest(left_tasks) AS l(task_uuid)
            UNION ALL
            SELECT k.task_uuid, 1 FROM unnest(d_tasks, d_states) AS k(task_uuid, state) WHERE k.state IS NOT NULL) AS x
        GROUP BY x.task_uuid HAVING sum(x.delta) <> 0
    ), judged AS MATERIALIZED (
        SELECT c.task_uuid, c.delta, t.tid, t.active + c.delta = 0 AND t.admitted_at IS NOT NULL AS ends
        FROM changed AS c
        CROSS JOIN LATERAL (SELECT x.ctid AS tid, x.active, x.admitted_at FROM tasker.tasks AS x
                            WHERE x.task_uuid = c.task_uuid OFFSET 0) AS t
    ), going_on AS (
        UPDATE tasker.tasks AS t SET active = t.active + j.delta
        FROM judged AS j WHERE t.ctid = j.tid AND NOT j.ends
    )
    SELECT array_agg(j.task_uuid) INTO done FROM judged AS j WHERE j.ends;
    IF done IS NOT NULL THEN
        SELECT f.finished, advance_tasks.queues || f.queues INTO finished, queues FROM tasker.finish_tasks(done) AS f;
    END IF;
END
$$;
