-- Claims tasks that wait for admission and are due, by priority and age. Scheduled ones whose time has come join the due ones
-- first, so that future tasks never stand in front. A claim keeps others away while the context is checked in Python; it
-- expires, and anybody may go on. Of namespaces that have too much to do (tasker.measure_admission) only as many are taken as
-- there is room for until the next measure.
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
    ready tid[];
    taken_from record;
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

    IF EXISTS (SELECT FROM tasker.namespaces AS n WHERE n.admission <> 'open') THEN
        -- Workflow by workflow: what may not start yet does not stand in front of the others, however much of it there is.
        -- The room of a namespace is had by one claim at a time.
        WITH closed AS MATERIALIZED (
            SELECT n.name, n.admission, n.admission_room FROM tasker.namespaces AS n
            WHERE n.admission <> 'open' AND n.admission_room > 0 ORDER BY n.name FOR NO KEY UPDATE SKIP LOCKED
        ), oldest AS MATERIALIZED (
            SELECT w.priority, w.task_uuid, n.name, n.admission, n.admission_room
            FROM (SELECT c.* FROM closed AS c
                  UNION ALL SELECT x.name, x.admission, NULL FROM tasker.namespaces AS x WHERE x.admission = 'open') AS n
            JOIN tasker.named_tasks AS d ON d.namespace = n.name
            CROSS JOIN LATERAL (
                SELECT x.priority, x.task_uuid FROM tasker.tasks AS x
                WHERE x.named_task_id = d.named_task_id AND x.admitted_at IS NULL AND x.finished_at IS NULL AND NOT x.scheduled
                  AND x.state = 'pending' AND (x.claim_expires_at IS NULL OR x.claim_expires_at <= tasker.now())
                ORDER BY x.priority DESC, x.task_uuid LIMIT quantity) AS w
        ), fitting AS MATERIALIZED (
            SELECT s.task_uuid, s.name, s.admission, s.priority
            FROM (SELECT x.*, row_number() OVER (PARTITION BY x.name ORDER BY x.priority DESC, x.task_uuid) AS no FROM oldest AS x) AS s
            WHERE s.admission = 'open' OR s.no <= s.admission_room
            ORDER BY s.priority DESC, s.task_uuid LIMIT quantity
        ), locked AS MATERIALIZED (
            SELECT t.tid, f.name, f.admission
            FROM fitting AS f
            CROSS JOIN LATERAL (SELECT x.ctid AS tid FROM tasker.tasks AS x
                                WHERE x.task_uuid = f.task_uuid AND x.admitted_at IS NULL AND x.state = 'pending'
                                  AND (x.claim_expires_at IS NULL OR x.claim_expires_at <= tasker.now())
                                FOR NO KEY UPDATE SKIP LOCKED) AS t
        )
        SELECT array_agg(l.tid) AS tids, array_agg(l.name ORDER BY l.name) FILTER (WHERE l.admission <> 'open') AS namespaces
        INTO taken_from FROM locked AS l;
        ready := taken_from.tids;
        IF taken_from.namespaces IS NOT NULL THEN
            UPDATE tasker.namespaces AS n SET admission_room = greatest(n.admission_room - u.n, 0)
            FROM (SELECT x.name, count(*)::integer AS n FROM unnest(taken_from.namespaces) AS x(name) GROUP BY x.name) AS u
            WHERE n.name = u.name;
        END IF;
    ELSE
        SELECT array_agg(r.tid) INTO ready
        FROM (SELECT x.ctid AS tid FROM tasker.tasks AS x
              WHERE x.admitted_at IS NULL AND x.finished_at IS NULL AND NOT x.scheduled AND x.state = 'pending'
                AND (x.claim_expires_at IS NULL OR x.claim_expires_at <= tasker.now())
              ORDER BY x.priority DESC, x.task_uuid LIMIT quantity FOR NO KEY UPDATE SKIP LOCKED) AS r;
    END IF;

    WITH taken AS (
        UPDATE tasker.tasks AS t
        SET claimed_by = request->>'processor', claimed_at = tasker.now(), claim_expires_at = tasker.now() + lasting
        FROM unnest(ready) AS r(tid) WHERE t.ctid = r.tid
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
