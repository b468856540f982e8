-- Puts steps back to work on an operator's word: attempts and losses begin anew, timers go, messages are sent (also where the
-- task is paused; whoever pops them looks). Internal; the caller holds the locks of the task and the steps. left_error: one
-- entry for each step that was not live before. Returns the queues.
CREATE OR REPLACE FUNCTION tasker.requeue_by_operator(
    task_uuid uuid, named_task_id integer, tids tid[], not_live integer, reason text) RETURNS text[]
LANGUAGE plpgsql
AS $$
DECLARE
    r record;
BEGIN
    SELECT array_agg(s.task_uuid) AS tasks, array_agg(s.step_uuid) AS steps, array_agg(s.position) AS positions,
           array_agg(s.map_index) AS maps, array_agg(n.queue) AS queues, array_agg(-1) AS parents,
           array_agg(s.fence) AS fences, array_agg(s.state) AS states
    INTO r
    FROM unnest(tids) AS k(tid)
    CROSS JOIN LATERAL (SELECT x.* FROM tasker.workflow_steps AS x WHERE x.ctid = k.tid OFFSET 0) AS s
    CROSS JOIN LATERAL (SELECT x.queue FROM tasker.named_steps AS x
                        WHERE x.named_task_id = requeue_by_operator.named_task_id AND x.position = s.position OFFSET 0) AS n;
    IF r.tasks IS NULL THEN
        RETURN ARRAY[]::text[];
    END IF;
    PERFORM tasker.delete_timers(r.tasks, r.positions, r.maps);
    UPDATE tasker.workflow_steps AS s
    SET state = 'enqueued', attempts = 0, losses = 0, start_marked_at = NULL, finished_at = NULL, error = NULL
    FROM unnest(tids) AS k(tid) WHERE s.ctid = k.tid;
    INSERT INTO tasker.workflow_step_transitions (task_uuid, position, map_index, fence, from_state, to_state, reason)
    SELECT k.t, k.p, k.m, k.f, k.s, 'enqueued', requeue_by_operator.reason
    FROM unnest(r.tasks, r.positions, r.maps, r.fences, r.states) AS k(t, p, m, f, s) WHERE k.s <> 'enqueued';
    UPDATE tasker.tasks AS t SET active = t.active + not_live WHERE t.task_uuid = requeue_by_operator.task_uuid AND not_live <> 0;
    RETURN tasker.send_step_messages(r.tasks, r.steps, r.positions, r.maps, r.queues, r.parents);
END
$$;
