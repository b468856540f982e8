-- Why is it not running? One of a closed list of reasons for the task and for each step that has not ended, with what to do:
-- finished, waiting_for_finalization, paused, scheduled, waiting_for_context_check, waiting_for_admission, waiting_for_room,
-- in_progress; and for steps: running, executor_silent, delegated, retry_scheduled, retry_due, waiting_for_circuit,
-- waiting_for_limit, waiting_for_rate, queued, all_busy, no_executor, namespace_paused, task_paused, waiting_for_dependencies,
-- blocked_by_failure, failed.
CREATE OR REPLACE FUNCTION tasker.explain_task(task_uuid uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
    steps jsonb;
    reason text;
    detail text;
    advice text;
BEGIN
    SELECT x.*, d.namespace, d.name, d.version, q.admission, q.admission_reason INTO t
    FROM tasker.tasks AS x JOIN tasker.named_tasks AS d ON d.named_task_id = x.named_task_id
    JOIN tasker.namespaces AS q ON q.name = d.namespace
    WHERE x.task_uuid = explain_task.task_uuid;
    IF t.task_uuid IS NULL THEN
        RAISE EXCEPTION 'there is no task %', coalesce(task_uuid::text, 'null')
            USING ERRCODE = 'TK004', COLUMN = 'task_uuid', HINT = 'was it committed, and is it not pruned?';
    END IF;

    SELECT coalesce(jsonb_agg(jsonb_build_object('step', w.name, 'step_uuid', w.step_uuid, 'state', w.state, 'reason', w.reason,
                                                 'detail', w.detail, 'what_to_do', w.advice) ORDER BY w.position), '[]')
    INTO steps
    FROM (
        SELECT s.position, n.name, s.step_uuid, s.state, r.reason, r.detail, r.advice
        FROM tasker.workflow_steps AS s
        JOIN tasker.named_steps AS n ON n.named_task_id = t.named_task_id AND n.position = s.position
        LEFT JOIN tasker.step_timers AS d ON d.task_uuid = s.task_uuid AND d.position = s.position AND d.map_index = s.map_index
        LEFT JOIN tasker.executors AS e ON e.executor = s.executor
        LEFT JOIN tasker.namespaces AS q ON q.name = n.namespace
        LEFT JOIN tasker.circuit_breakers AS c ON d.kind = 'circuit' AND c.name = substr(d.key, 9)
        CROSS JOIN LATERAL (SELECT CASE WHEN s.state = 'enqueued' THEN (
                                SELECT max(h.at) FROM tasker.workflow_step_transitions AS h
                                WHERE h.task_uuid = s.task_uuid AND h.position = s.position AND h.map_index = s.map_index) END AS since) AS waits
        CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE x.lost_at IS NULL) AS serving,
                                   count(*) FILTER (WHERE x.lost_at IS NULL AND x.idle) AS idle,
                                   string_agg(DISTINCT x.worker, ', ' ORDER BY x.worker) FILTER (WHERE x.lost_at IS NULL) AS workers
                            FROM tasker.executors AS x WHERE x.kind = 'step_executor' AND n.queue = ANY (x.queues)) AS servers
        CROSS JOIN LATERAL (SELECT string_agg(p.name || ' (' || w.state || ')', ', ' ORDER BY p.position) AS names,
                                   bool_or(w.state = 'error') AS failed
                            FROM tasker.named_steps AS p
                            JOIN tasker.workflow_steps AS w ON w.task_uuid = s.task_uuid AND w.position = p.position AND w.map_index = 0
                            WHERE p.named_task_id = t.named_task_id AND p.position = ANY (n.depends_on)
                              AND w.state NOT IN ('complete', 'resolved_manually', 'skipped')) AS parents
        CROSS JOIN LATERAL (
            SELECT v.reason, v.detail, v.advice FROM (VALUES
                (s.state = 'error', 'failed', concat_ws(': ', s.error->>'type', s.error->>'message'),
                 'mend the cause, then: tasker task retry ' || t.task_uuid || ', or supply its result: tasker task resolve-step'),
                (s.state = 'in_progress' AND d.kind = 'deadline', 'delegated', format('runs as Celery task %s:%s until %s at most', s.step_uuid, s.fence, d.due_at),
                 'look for it in Flower'),
                (s.state = 'in_progress' AND (e.executor IS NULL OR e.lost_at IS NOT NULL OR e.heartbeat_at < clock_timestamp() - interval '30 seconds'),
                 'executor_silent', format('executor %s was last heard of at %s', s.executor, e.heartbeat_at),
                 'nothing: its steps go back to their queue within two leases'),
                (s.state = 'in_progress', 'running', format('attempt %s of %s on %s since %s', s.attempts, n.max_attempts, e.worker, s.started_at), 'wait for it'),
                (t.state = 'paused', 'task_paused', NULL, 'tasker task resume ' || t.task_uuid),
                (s.state = 'waiting_for_retry' AND d.due_at > tasker.now(), 'retry_scheduled',
                 format('attempt %s of %s is due at %s, after %s', s.attempts + 1, n.max_attempts, d.due_at, s.error->>'message'), 'wait, or reset the step'),
                (s.state IN ('enqueued', 'waiting_for_retry') AND q.paused_at IS NOT NULL, 'namespace_paused',
                 format('namespace %s is paused since %s', n.namespace, q.paused_at), 'resume the namespace'),
                (d.kind = 'circuit', 'waiting_for_circuit', format('circuit %s is %s', c.name, replace(c.state, '_', ' '))
                     || CASE WHEN c.forced THEN format(', opened by %s', coalesce(c.changed_by, 'hand'))
                             WHEN c.retry_at IS NOT NULL THEN format(': %s; a call may try at %s', c.reason, c.retry_at) ELSE '' END,
                 format('see to the system, or: tasker circuit close %s', c.name)),
                (d.kind = 'limit' AND d.key = 'rate', 'waiting_for_rate', format('its rate lets it start at %s', d.due_at),
                 'wait for its time, or allow more: tasker namespace limit ' || n.namespace),
                (d.kind = 'limit' AND starts_with(d.key, 'later:'), 'waiting_for_rate',
                 format('its rate keeps no moment so far ahead; it is looked at again at %s', d.due_at),
                 'wait, or allow more: tasker namespace limit ' || n.namespace),
                (d.kind = 'limit', 'waiting_for_limit', CASE WHEN starts_with(d.key, 'ns:')
                     THEN format('as many steps of namespace %s run as may (%s)', substr(d.key, 4), q.max_concurrency)
                     ELSE format('as many steps of key %s run as may', quote_literal(t.concurrency_key)) END,
                 'wait, or allow more: ' || CASE WHEN starts_with(d.key, 'ns:') THEN 'tasker namespace limit ' || n.namespace
                                                 ELSE 'concurrency.max_steps of the workflow' END),
                (s.state = 'enqueued' AND d.kind = 'retry' AND d.due_at > tasker.now(), 'waiting_for_circuit',
                 format('its circuit has closed; it goes on at %s', d.due_at), 'wait'),
                (s.state IN ('enqueued', 'waiting_for_retry') AND servers.serving = 0, 'no_executor', format('no executor serves %s', n.queue),
                 format('start a worker: celery -A tasker worker -Q %s', n.namespace)),
                (s.state = 'waiting_for_retry', 'retry_due', format('due since %s; %s executors serve %s, %s idle', d.due_at, servers.serving, n.queue, servers.idle),
                 'wait, or start more workers'),
                (s.state = 'enqueued' AND servers.idle = 0, 'all_busy', format('waits since %s; all %s executors that serve %s are busy (%s)',
                                                                          waits.since, servers.serving, n.queue, servers.workers),
                 'wait, or start more workers'),
                (s.state = 'enqueued', 'queued', format('waits since %s; %s executors serve %s, %s idle', waits.since, servers.serving, n.queue, servers.idle),
                 'wait, or start more workers'),
                (s.state = 'pending' AND parents.failed, 'blocked_by_failure', parents.names, 'see the step that failed'),
                (s.state = 'pending', 'waiting_for_dependencies', parents.names, 'see those steps')
            ) AS v(holds, reason, detail, advice) WHERE v.holds LIMIT 1) AS r
        WHERE s.task_uuid = t.task_uuid AND s.state NOT IN ('complete', 'resolved_manually', 'skipped', 'cancelled')
        ORDER BY s.position LIMIT 1000) AS w;

    reason := CASE
        WHEN t.finished_at IS NOT NULL AND t.finalized_at IS NULL THEN 'waiting_for_finalization'
        WHEN t.finished_at IS NOT NULL THEN 'finished'
        WHEN t.state = 'paused' THEN 'paused'
        WHEN t.state = 'pending' AND t.scheduled AND t.run_at > tasker.now() THEN 'scheduled'
        WHEN t.state = 'pending' AND NOT t.context_checked THEN 'waiting_for_context_check'
        WHEN t.state = 'pending' AND t.claimed_by IS NULL AND t.admission <> 'open' THEN 'waiting_for_room'
        WHEN t.state = 'pending' THEN 'waiting_for_admission'
        ELSE 'in_progress' END;
    detail := CASE reason
        WHEN 'finished' THEN format('%s at %s', t.state, t.finished_at)
        WHEN 'waiting_for_finalization' THEN coalesce(format('claimed by %s until %s', t.finalization_claimed_by, t.finalization_claim_expires_at), 'not claimed')
        WHEN 'paused' THEN (SELECT format('by %s: %s', x.actor, x.reason) FROM tasker.task_transitions AS x
                            WHERE x.task_uuid = t.task_uuid AND x.to_state = 'paused' ORDER BY x.at DESC LIMIT 1)
        WHEN 'scheduled' THEN format('runs at %s', t.run_at)
        WHEN 'waiting_for_context_check' THEN 'its context was not yet checked against the input schema'
        WHEN 'waiting_for_room' THEN format('namespace %s has too much to do (%s)', t.namespace, t.admission_reason)
        WHEN 'waiting_for_admission' THEN coalesce('claimed by ' || t.claimed_by, 'claimed by nobody')
        ELSE format('%s of its %s steps live', t.active, t.total) END;
    IF reason = 'finished' AND t.state = 'error' THEN
        -- Of a context that was refused, or of the workflow's lifecycle; a task that ends by a step that failed has none.
        detail := detail || coalesce((SELECT ': ' || x.reason FROM tasker.task_transitions AS x
                                      WHERE x.task_uuid = t.task_uuid AND x.to_state = 'error' ORDER BY x.at DESC LIMIT 1), '');
    END IF;
    advice := CASE reason
        WHEN 'finished' THEN CASE WHEN t.state = 'error' THEN 'mend the cause, then: tasker task retry ' || t.task_uuid ELSE 'nothing' END
        WHEN 'paused' THEN 'tasker task resume ' || t.task_uuid
        WHEN 'scheduled' THEN 'wait for its time'
        WHEN 'in_progress' THEN 'see its steps'
        ELSE CASE WHEN EXISTS (SELECT FROM tasker.executors AS x WHERE x.lost_at IS NULL
                               AND x.kind = CASE WHEN t.finished_at IS NULL THEN 'task_claimer' ELSE 'task_finalizer' END)
                  THEN 'wait' ELSE 'start an orchestration worker: celery -A tasker worker -Q orchestration' END END;
    RETURN jsonb_build_object('task_uuid', t.task_uuid, 'namespace', t.namespace, 'name', t.name, 'version', t.version,
                              'state', t.state, 'reason', reason, 'detail', detail, 'what_to_do', advice, 'steps', steps);
END
$$;
