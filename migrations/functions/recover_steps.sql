-- Decides for the steps of one receipt whose holder is gone: back to the queue, or, as poison or with an unknown outcome,
-- to their end. Internal. why: executor_lost (which counts as a loss), executor_left or answer_lost. Tasks first, then steps, both SKIP LOCKED and rechecked under their lock.
CREATE OR REPLACE FUNCTION tasker.recover_steps(
    executor uuid, task_uuids uuid[], positions integer[], map_indexes integer[], fences integer[],
    why text, max_losses integer,
    OUT requeued integer, OUT poisoned integer, OUT unknown integer, OUT skipped integer, OUT queues text[], OUT finished jsonb)
LANGUAGE plpgsql
AS $$
DECLARE
    locked uuid[];
    step record;
    loss constant integer := CASE WHEN why = 'executor_lost' THEN 1 ELSE 0 END;
    q_rows tid[] := ARRAY[]::tid[]; q_tasks uuid[] := ARRAY[]::uuid[]; q_positions integer[] := ARRAY[]::integer[];
    q_losses integer[] := ARRAY[]::integer[];
    e_rows tid[] := ARRAY[]::tid[]; e_tasks uuid[] := ARRAY[]::uuid[]; e_positions integer[] := ARRAY[]::integer[];
    e_maps integer[] := ARRAY[]::integer[]; e_reasons text[] := ARRAY[]::text[]; e_fences integer[] := ARRAY[]::integer[];
    ended record;
BEGIN
    requeued := 0; poisoned := 0; unknown := 0; skipped := 0; queues := '{}'; finished := '[]';
    SELECT coalesce(array_agg(t.task_uuid), '{}') INTO locked
    FROM (SELECT DISTINCT u.task_uuid FROM unnest(task_uuids) AS u(task_uuid) ORDER BY u.task_uuid OFFSET 0) AS k
    CROSS JOIN LATERAL (SELECT x.task_uuid FROM tasker.tasks AS x WHERE x.task_uuid = k.task_uuid
                        FOR NO KEY UPDATE SKIP LOCKED) AS t;
    FOR step IN
        SELECT k.task_uuid, k.step_position, k.map_index, k.fence, s.tid, s.losses, s.start_marked_at, n.retryable, there.yes AS is_there
        FROM (SELECT u.* FROM unnest(task_uuids, positions, map_indexes, fences) AS u(task_uuid, step_position, map_index, fence)
              ORDER BY u.task_uuid, u.step_position, u.map_index OFFSET 0) AS k
        CROSS JOIN LATERAL (
            SELECT EXISTS (SELECT FROM tasker.workflow_steps AS x
                           WHERE x.task_uuid = k.task_uuid AND x.position = k.step_position AND x.map_index = k.map_index
                             AND x.state = 'in_progress' AND x.fence = k.fence AND x.executor = recover_steps.executor
                             AND NOT EXISTS (SELECT FROM tasker.step_timers AS d
                                             WHERE d.task_uuid = x.task_uuid AND d.position = x.position
                                               AND d.map_index = x.map_index)) AS yes OFFSET 0) AS there
        LEFT JOIN LATERAL (
            SELECT x.ctid AS tid, x.losses, x.start_marked_at FROM tasker.workflow_steps AS x
            WHERE there.yes AND k.task_uuid = ANY (locked)
              AND x.task_uuid = k.task_uuid AND x.position = k.step_position AND x.map_index = k.map_index
              AND x.state = 'in_progress' AND x.fence = k.fence AND x.executor = recover_steps.executor
            FOR NO KEY UPDATE SKIP LOCKED) AS s ON true
        LEFT JOIN LATERAL (
            SELECT z.retryable FROM tasker.tasks AS y
            JOIN tasker.named_steps AS z ON z.named_task_id = y.named_task_id AND z.position = k.step_position
            WHERE y.task_uuid = k.task_uuid OFFSET 0) AS n ON true
    LOOP
        CONTINUE WHEN NOT step.is_there;
        IF step.tid IS NULL THEN
            skipped := skipped + 1;
        ELSIF step.losses + loss >= max_losses THEN
            poisoned := poisoned + 1;
            e_rows := e_rows || step.tid; e_tasks := e_tasks || step.task_uuid; e_positions := e_positions || step.step_position;
            e_maps := e_maps || step.map_index; e_reasons := e_reasons || 'poison'::text; e_fences := e_fences || step.fence;
        ELSIF step.start_marked_at IS NOT NULL AND NOT step.retryable THEN
            unknown := unknown + 1;
            e_rows := e_rows || step.tid; e_tasks := e_tasks || step.task_uuid; e_positions := e_positions || step.step_position;
            e_maps := e_maps || step.map_index; e_reasons := e_reasons || 'outcome_unknown'::text; e_fences := e_fences || step.fence;
        ELSE
            requeued := requeued + 1;
            q_rows := q_rows || step.tid; q_tasks := q_tasks || step.task_uuid; q_positions := q_positions || step.step_position;
            q_losses := q_losses || loss;
        END IF;
    END LOOP;

    IF cardinality(q_rows) > 0 THEN
        queues := tasker.requeue_steps(q_rows, q_tasks, q_positions, q_losses, why);
    END IF;
    IF cardinality(e_rows) > 0 THEN
        UPDATE tasker.workflow_steps AS s
        SET state = 'error', losses = s.losses + loss, finished_at = clock_timestamp(),
            error = jsonb_build_object('type', k.reason, 'retryable', false, 'attempt', s.attempts, 'message',
                CASE k.reason WHEN 'poison' THEN format('its executors died %s times while it ran', s.losses + loss)
                     ELSE 'its executor died after it had started, and it may not run twice: whether it took effect is unknown' END)
        FROM unnest(e_rows, e_reasons) AS k(tid, reason) WHERE s.ctid = k.tid;
        INSERT INTO tasker.workflow_step_transitions (task_uuid, position, map_index, fence, from_state, to_state, executor, reason)
        SELECT k.task_uuid, k.step_position, k.map_index, k.fence, 'in_progress', 'error', recover_steps.executor, k.reason
        FROM unnest(e_tasks, e_positions, e_maps, e_fences, e_reasons) AS k(task_uuid, step_position, map_index, fence, reason);
        PERFORM tasker.bury_steps(e_tasks, e_positions, e_maps, NULL);
        PERFORM tasker.publish_step_events(e_tasks, e_positions, e_maps, NULL);
        SELECT * INTO ended FROM tasker.advance_tasks(ARRAY[]::uuid[], ARRAY[]::integer[], ARRAY[]::boolean[], e_tasks,
                                                      NULL, NULL, ARRAY[]::text[], 0, 0);
        finished := ended.finished; queues := queues || ended.queues;
    END IF;
END
$$;
