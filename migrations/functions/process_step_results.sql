-- Records outcomes that came by message (from other languages, and of steps delegated to a Celery task), and fires
-- deadlines that are due. A message goes only when its task was locked; those of busy tasks show again in half a second.
-- A deadline of a step that is no longer running (cancelled, resolved) is only a Celery id to revoke.
--
-- request: {messages: [{msg_id, outcome} | {msg_id, rejected: {reason, message}}], deadline_limit}
-- Returns {outcomes[], rejected, timed_out[], revoke[] (Celery ids), queues[], finished_tasks[], notify[], next_due_seconds}.
CREATE OR REPLACE FUNCTION tasker.process_step_results(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    own constant text := 'orchestration_step_results';
    outcomes jsonb;
    ids bigint[];
    rejected jsonb;
    n_rejected integer := 0;
    settled record;
    late record;
    answers json := '[]'::json;
    finished jsonb := '[]'::jsonb;
    queues text[] := ARRAY[]::text[];
    timed_out jsonb := '[]'::jsonb;
    revoke jsonb := '[]'::jsonb;
    next_due double precision;
BEGIN
    PERFORM tasker.assert_read_committed('process_step_results');
    SELECT jsonb_agg(m.entry->'outcome' ORDER BY m.no) FILTER (WHERE m.entry ? 'outcome'),
           array_agg((m.entry->>'msg_id')::bigint ORDER BY m.no) FILTER (WHERE m.entry ? 'outcome'),
           jsonb_agg(m.entry) FILTER (WHERE NOT m.entry ? 'outcome')
    INTO outcomes, ids, rejected
    FROM jsonb_array_elements(coalesce(request->'messages', '[]')) WITH ORDINALITY AS m(entry, no);
    IF outcomes IS NOT NULL THEN
        settled := tasker.settle_outcomes(outcomes, false, NULL, NULL, ARRAY[]::text[], 0, 0);
        answers := settled.answers; finished := settled.finished; queues := settled.queues;
        PERFORM tasker.queue_remove(own, ARRAY(
            SELECT i.id FROM unnest(ids, settled.verdicts) AS i(id, verdict) WHERE i.verdict <> 'busy'));
        PERFORM tasker.queue_show_again(own, ARRAY(
            SELECT i.id FROM unnest(ids, settled.verdicts) AS i(id, verdict) WHERE i.verdict = 'busy'), 0.5, true);
    END IF;
    IF rejected IS NOT NULL THEN
        n_rejected := tasker.reject_messages(own, rejected);
    END IF;

    -- Deadlines. Their steps are read without a lock here; settle_outcomes decides under the locks, by the fence. The timers are
    -- locked without waiting: a cancellation that holds one may want a task that the outcomes above have locked.
    WITH due AS MATERIALIZED (
        SELECT w.task_uuid, w.position, w.map_index, w.fence FROM tasker.step_timers AS w
        WHERE w.queue = own AND w.due_at <= tasker.now() AND w.kind = 'deadline'
        ORDER BY w.due_at LIMIT greatest(coalesce((request->>'deadline_limit')::integer, 100), 0) FOR UPDATE SKIP LOCKED
    ), looked AS MATERIALIZED (
        SELECT d.*, s.step_uuid, s.executor, s.state = 'in_progress' AND s.fence = d.fence AS running
        FROM due AS d
        CROSS JOIN LATERAL (SELECT x.* FROM tasker.workflow_steps AS x
                            WHERE x.task_uuid = d.task_uuid AND x.position = d.position AND x.map_index = d.map_index
                            OFFSET 0) AS s
    )
    SELECT jsonb_agg(jsonb_build_object(
               'task_uuid', l.task_uuid, 'step_uuid', l.step_uuid, 'position', l.position, 'map_index', l.map_index,
               'fence', l.fence, 'executor', l.executor, 'status', 'error',
               'error', jsonb_build_object('type', 'timeout', 'timeout', true, 'retryable', true,
                                           'message', 'no result came before the deadline'))) FILTER (WHERE l.running) AS outcomes,
           jsonb_agg(l.step_uuid || ':' || l.fence) FILTER (WHERE NOT l.running) AS over,
           array_agg(l.task_uuid) FILTER (WHERE NOT l.running) AS tasks,
           array_agg(l.position) FILTER (WHERE NOT l.running) AS positions,
           array_agg(l.map_index) FILTER (WHERE NOT l.running) AS maps
    INTO late FROM looked AS l;
    IF late.over IS NOT NULL THEN
        revoke := late.over;
        PERFORM tasker.delete_timers(late.tasks, late.positions, late.maps);
    END IF;
    IF late.outcomes IS NOT NULL THEN
        settled := tasker.settle_outcomes(late.outcomes, false, NULL, NULL, ARRAY[]::text[], 0, 0);
        finished := finished || settled.finished; queues := queues || settled.queues;
        SELECT coalesce(jsonb_agg(a.answer::jsonb), '[]'), revoke || coalesce(jsonb_agg((a.answer->>'step_uuid') || ':' || (a.answer->>'fence')), '[]')
        INTO timed_out, revoke
        FROM json_array_elements(settled.answers) AS a(answer) WHERE a.answer->>'answer' = 'accepted';
    END IF;

    SELECT extract(epoch FROM w.due_at - tasker.now()) INTO next_due
    FROM tasker.step_timers AS w WHERE w.queue = own ORDER BY w.due_at LIMIT 1;
    RETURN jsonb_build_object(
        'outcomes', answers, 'rejected', n_rejected, 'timed_out', timed_out, 'revoke', revoke, 'finished_tasks', finished,
        'queues', to_jsonb(tasker.queues_with_idle_consumer(queues)),
        'notify', CASE WHEN finished = '[]' THEN '[]'::jsonb ELSE to_jsonb(tasker.waiting_channels()) END,
        'next_due_seconds', CASE WHEN next_due > 0 THEN next_due WHEN next_due <= 0 THEN 0 END);
END
$$;
