-- What follows once steps are satisfied or have failed: dependents' counters, ready steps, the tasks' counters, and the end
-- of tasks with nothing left. Internal: every caller holds the locks of these tasks and has settled the steps themselves.
--
-- sat_*: steps that now satisfy dependencies, and whether a dependent may be continued by the caller's executor.
-- left_tasks: one entry for every step that left the live states, satisfied or not.
-- A ready step is continued (claimed at once for executor "me", in the receipt of call_no) if that executor serves its queue
-- and no limit, and no circuit that is not closed, guards it; each parent hands on one branch, the others are published. In a task that was not admitted yet (an
-- operator resolved a step of it) nothing becomes ready: admission looks for what can run.
CREATE OR REPLACE FUNCTION tasker.advance_tasks(
    sat_tasks uuid[], sat_positions integer[], sat_continue boolean[], left_tasks uuid[],
    me uuid, call_no bigint, served text[], continue_limit integer, budget_ms double precision,
    OUT finished jsonb, OUT queues text[], OUT next_tasks uuid[], OUT next_positions integer[], OUT next_maps integer[])
LANGUAGE plpgsql
AS $$
DECLARE
    -- The dependents, in (task, position) order; "go" says which are continued, the other ready ones are published.
    d record;
    go boolean[];
    taken integer := 0;
    spent double precision := 0;
    last_task uuid;
    last_parent integer;
    next_fences integer[];
    r record;
    done uuid[];
    ended record;
BEGIN
    finished := '[]'; queues := '{}'; next_tasks := '{}'; next_positions := '{}'; next_maps := '{}';

    -- The dependents of what was satisfied, each once, with how many of its dependencies that were and which was the last.
    WITH edges AS MATERIALIZED (
        SELECT k.task_uuid, e.child, k.step_position, k.may AND NOT t.has_key AS may, t.named_task_id, t.paused, t.admitted
        FROM unnest(sat_tasks, sat_positions, sat_continue) AS k(task_uuid, step_position, may)
        CROSS JOIN LATERAL (SELECT x.named_task_id, x.state = 'paused' AS paused, x.admitted_at IS NOT NULL AS admitted,
                                   x.concurrency_key IS NOT NULL AS has_key
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
    ), locked AS MATERIALIZED (
        SELECT c.*, s.tid, s.step_uuid, s.fence, n.queue, n.expected_ms, n.system_dependency,
               s.state = 'pending' AND s.unmet = c.n AND c.admitted AS ready
        FROM children AS c
        CROSS JOIN LATERAL (SELECT x.ctid AS tid, x.state, x.unmet, x.step_uuid, x.fence FROM tasker.workflow_steps AS x
                            WHERE x.task_uuid = c.task_uuid AND x.position = c.child AND x.map_index = 0
                            FOR NO KEY UPDATE) AS s
        CROSS JOIN LATERAL (SELECT x.queue, x.expected_ms, x.system_dependency FROM tasker.named_steps AS x
                            WHERE x.named_task_id = c.named_task_id AND x.position = c.child OFFSET 0) AS n
    )
    SELECT array_agg(l.tid) AS rows, array_agg(l.task_uuid) AS tasks, array_agg(l.child) AS positions, array_agg(l.n) AS counts,
           array_agg(l.parent) AS parents, array_agg(l.ready) AS ready, array_agg(l.step_uuid) AS steps,
           array_agg(l.fence) AS fences, array_agg(l.queue) AS queues, array_agg(l.paused) AS paused,
           array_agg(coalesce(l.expected_ms, budget_ms)) AS expected,
           array_agg(continue_limit > 0 AND l.ready AND l.may AND NOT l.paused AND l.queue = ANY (ARRAY(
               SELECT n.queue FROM tasker.namespaces AS n
               WHERE n.queue = ANY (served) AND n.paused_at IS NULL AND n.max_concurrency IS NULL AND n.rate_count IS NULL))
               AND (l.system_dependency IS NULL OR l.system_dependency <> ALL (ARRAY(
                   SELECT b.name FROM tasker.circuit_breakers AS b WHERE b.state <> 'closed')))) AS open,
           bool_or(l.ready) AS any_ready
    INTO d FROM locked AS l;

    IF d.tasks IS NOT NULL THEN
        go := array_fill(false, ARRAY[cardinality(d.tasks)]);
        IF true = ANY (d.open) THEN
            FOR i IN 1 .. cardinality(d.tasks) LOOP
                EXIT WHEN taken >= continue_limit;
                CONTINUE WHEN NOT d.open[i] OR (d.parents[i] = last_parent AND d.tasks[i] = last_task)
                           OR (taken > 0 AND spent + d.expected[i] > budget_ms);
                go[i] := true;
                taken := taken + 1;
                spent := spent + d.expected[i];
                last_parent := d.parents[i]; last_task := d.tasks[i];
            END LOOP;
            SELECT array_agg(k.task_uuid), array_agg(k.step_position), array_agg(0), array_agg(k.fence + 1)
            INTO next_tasks, next_positions, next_maps, next_fences
            FROM unnest(d.tasks, d.positions, d.fences, go) AS k(task_uuid, step_position, fence, go) WHERE k.go;
            INSERT INTO tasker.step_claims (executor, call_no, task_uuids, positions, map_indexes, fences)
            VALUES (me, advance_tasks.call_no, next_tasks, next_positions, next_maps, next_fences)
            ON CONFLICT DO NOTHING;
            IF NOT FOUND THEN
                -- This call was made before and has its receipt already: what is ready now goes to the queues.
                taken := 0;
                go := array_fill(false, ARRAY[cardinality(d.tasks)]);
                next_tasks := '{}'; next_positions := '{}'; next_maps := '{}';
            END IF;
        END IF;

        UPDATE tasker.workflow_steps AS s
        SET unmet = s.unmet - k.n,
            state = CASE WHEN k.go THEN 'in_progress' WHEN k.ready THEN 'enqueued' ELSE s.state END,
            fence = s.fence + k.go::integer, attempts = s.attempts + k.go::integer,
            executor = CASE WHEN k.go THEN me ELSE s.executor END,
            started_at = CASE WHEN k.go THEN clock_timestamp() ELSE s.started_at END
        FROM unnest(d.rows, d.counts, d.ready, go) AS k(tid, n, ready, go)
        WHERE s.ctid = k.tid;

        IF d.any_ready THEN
            INSERT INTO tasker.workflow_step_transitions
                (task_uuid, position, map_index, fence, from_state, to_state, executor, reason)
            SELECT k.task_uuid, k.step_position, 0, k.fence + k.go::integer, 'pending',
                   CASE WHEN k.go THEN 'in_progress' ELSE 'enqueued' END, CASE WHEN k.go THEN me END,
                   CASE WHEN k.go THEN 'continued' ELSE 'ready' END
            FROM unnest(d.tasks, d.positions, d.fences, d.ready, go) AS k(task_uuid, step_position, fence, ready, go)
            WHERE k.ready;
        END IF;

        IF d.any_ready AND taken < cardinality(d.tasks) THEN
            -- In a paused task ready steps are enqueued without a message; resume sends it.
            SELECT array_agg(k.task_uuid) AS tasks, array_agg(k.step_uuid) AS steps, array_agg(k.step_position) AS positions,
                   array_agg(0) AS maps, array_agg(k.queue) AS queues, array_agg(k.parent) AS parents
            INTO r
            FROM unnest(d.tasks, d.steps, d.positions, d.queues, d.parents, d.ready, go, d.paused)
                 AS k(task_uuid, step_uuid, step_position, queue, parent, ready, go, paused)
            WHERE k.ready AND NOT k.go AND NOT k.paused;
            IF r.tasks IS NOT NULL THEN
                queues := tasker.send_step_messages(r.tasks, r.steps, r.positions, r.maps, r.queues, r.parents);
            END IF;
        END IF;
    END IF;

    -- The task row is written only if its counter changes: a chain hands its one live step on and leaves it alone.
    WITH changed AS MATERIALIZED (
        SELECT x.task_uuid, sum(x.delta)::integer AS delta FROM (
            SELECT l.task_uuid, -1 AS delta FROM unnest(left_tasks) AS l(task_uuid)
            UNION ALL
            SELECT k.task_uuid, 1 FROM unnest(d.tasks, d.ready) AS k(task_uuid, ready) WHERE k.ready) AS x
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
        ended := tasker.finish_tasks(done);
        finished := ended.finished; queues := queues || ended.queues;
    END IF;
END
$$;
