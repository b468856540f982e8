-- The live steps of a task that its workflow's lifecycle gives up, each with the reason, since when, and whether the task is
-- to be paused for somebody to look at instead. Internal; reads only, and decides by what the calling statement sees.
--
-- The clocks: of a task, since it was admitted, reopened or resumed last, or one of its steps was retried or reset by hand;
-- of a step, since it became ready or was retried or reset for max_duration, since its claim for max_steps_in_process, since
-- the attempt that failed for max_waiting_for_retry, and none of them before its task was resumed. A step that waits too long for its
-- dependencies is not ended itself, it has done nothing: those live ones are given up that it waits for. A step that waits
-- for one that failed is blocked, not stuck: the failed one has its dead letter already.
-- They compare the engine's clock with facts by the real one, so that a clock that tests move makes a task look old.
CREATE OR REPLACE FUNCTION tasker.find_stuck_steps(task_uuid uuid)
RETURNS TABLE (step_position integer, step_map_index integer, reason text, since timestamptz, minutes integer, pauses boolean, message text)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    moment constant timestamptz := tasker.now();
    id constant uuid := task_uuid;
    t record;
    begun timestamptz;
    restarted timestamptz;
    allowed integer;
BEGIN
    SELECT x.named_task_id, x.admitted_at, d.lifecycle INTO t
    FROM tasker.tasks AS x JOIN tasker.named_tasks AS d ON d.named_task_id = x.named_task_id
    WHERE x.task_uuid = id AND x.state = 'in_progress' AND d.lifecycle IS NOT NULL
      AND x.admitted_at <= moment - make_interval(mins => (d.lifecycle->>'earliest_minutes')::integer);
    IF t.named_task_id IS NULL THEN
        RETURN;
    END IF;
    -- An hour for servers whose clock was set back; older partitions hold nothing of it.
    SELECT greatest(t.admitted_at, max(h.at)) INTO begun FROM tasker.task_transitions AS h
    WHERE h.task_uuid = id AND h.at >= t.admitted_at - interval '1 hour' AND h.to_state = 'in_progress';
    SELECT greatest(begun, max(h.at)) INTO restarted FROM tasker.workflow_step_transitions AS h
    WHERE h.task_uuid = id AND h.at >= t.admitted_at - interval '1 hour' AND (h.from_state = 'error' OR starts_with(h.reason, 'reset'));

    allowed := (t.lifecycle->>'max_duration_minutes')::integer;
    IF restarted <= moment - make_interval(mins => allowed) THEN
        RETURN QUERY
        SELECT s.position, s.map_index, 'lifecycle_max_duration', restarted, allowed,
               coalesce(t.lifecycle->>'staleness_action' = 'manual_review' OR t.lifecycle->>'auto_fail_on_timeout' = 'false', false),
               format('its task has run since %s, and may for %s minutes', restarted, allowed)
        FROM tasker.workflow_steps AS s
        WHERE s.task_uuid = id AND s.state IN ('enqueued', 'in_progress', 'waiting_for_retry');
        RETURN;
    END IF;

    RETURN QUERY
    WITH RECURSIVE readied AS MATERIALIZED (
        SELECT h.position, h.map_index, max(h.at) AS at FROM tasker.workflow_step_transitions AS h
        WHERE h.task_uuid = id AND h.at >= t.admitted_at - interval '1 hour'
          AND (h.from_state IN ('pending', 'error') OR starts_with(h.reason, 'reset'))
        GROUP BY h.position, h.map_index
    ), looked AS MATERIALIZED (
        SELECT s.position, s.map_index, s.state, s.unmet, s.started_at, n.lifecycle, n.depends_on, n.dependents, w.set_at AS waits_since
        FROM (SELECT x.* FROM tasker.workflow_steps AS x WHERE x.task_uuid = id AND (x.finished_at IS NULL OR x.state = 'error') OFFSET 0) AS s
        CROSS JOIN LATERAL (SELECT x.* FROM tasker.named_steps AS x
                            WHERE x.named_task_id = t.named_task_id AND x.position = s.position OFFSET 0) AS n
        LEFT JOIN LATERAL (SELECT x.set_at FROM tasker.step_timers AS x
                           WHERE x.task_uuid = id AND x.position = s.position AND x.map_index = s.map_index AND x.kind = 'retry'
                           OFFSET 0) AS w ON true
    ), judged AS (
        SELECT l.position, l.map_index, v.reason, v.since, v.minutes, v.message, l.lifecycle
        FROM looked AS l
        LEFT JOIN readied AS r ON r.position = l.position AND r.map_index = l.map_index
        CROSS JOIN LATERAL (
            SELECT c.* FROM (VALUES
                ('lifecycle_steps_in_process', CASE WHEN l.state = 'in_progress' THEN greatest(l.started_at, begun) END,
                 (l.lifecycle->>'max_steps_in_process_minutes')::integer, 'its attempt has run since %s, and may for %s minutes'),
                ('lifecycle_waiting_for_retry', CASE WHEN l.state = 'waiting_for_retry' AND l.waits_since IS NOT NULL THEN greatest(l.waits_since, begun) END,
                 (l.lifecycle->>'max_waiting_for_retry_minutes')::integer, 'it has waited for another attempt since %s, and may for %s minutes'),
                ('lifecycle_max_duration', greatest(r.at, begun),
                 (l.lifecycle->>'max_duration_minutes')::integer, 'it was ready at %s, and may take %s minutes')
            ) AS c(reason, since, minutes, message)
            WHERE c.since <= moment - make_interval(mins => c.minutes) LIMIT 1) AS v
        WHERE l.state IN ('enqueued', 'in_progress', 'waiting_for_retry') AND l.lifecycle IS NOT NULL
    ), blocked (place) AS (
        SELECT d.child FROM looked AS l CROSS JOIN unnest(l.dependents) AS d(child) WHERE l.state = 'error'
        UNION
        SELECT d.child FROM blocked AS b JOIN looked AS l ON l.position = b.place CROSS JOIN unnest(l.dependents) AS d(child)
    ), waiting AS MATERIALIZED (
        SELECT l.position, l.depends_on, l.lifecycle, (l.lifecycle->>'max_waiting_for_dependencies_minutes')::integer AS minutes
        FROM looked AS l
        WHERE l.state = 'pending' AND l.unmet > 0
          AND restarted <= moment - make_interval(mins => (l.lifecycle->>'max_waiting_for_dependencies_minutes')::integer)
          AND l.position NOT IN (SELECT b.place FROM blocked AS b)
    ), above (place) AS (
        SELECT p.parent FROM waiting AS w CROSS JOIN unnest(w.depends_on) AS p(parent)
        UNION
        SELECT p.parent FROM above AS a JOIN looked AS l ON l.position = a.place CROSS JOIN unnest(l.depends_on) AS p(parent)
    ), patience AS (
        SELECT min(w.minutes) AS minutes, bool_and(coalesce(w.lifecycle->>'staleness_action' = 'manual_review'
                                                            OR w.lifecycle->>'auto_fail_on_timeout' = 'false', false)) AS pauses
        FROM waiting AS w
    )
    SELECT DISTINCT ON (f.position, f.map_index) f.position, f.map_index, f.reason, f.since, f.minutes, f.pauses, f.message
    FROM (SELECT 1 AS no, j.position, j.map_index, j.reason, j.since, j.minutes,
                 coalesce(j.lifecycle->>'staleness_action' = 'manual_review' OR j.lifecycle->>'auto_fail_on_timeout' = 'false', false) AS pauses,
                 format(j.message, j.since, j.minutes) AS message
          FROM judged AS j
          UNION ALL
          SELECT 2, l.position, l.map_index, 'lifecycle_waiting_for_dependencies', restarted, p.minutes, p.pauses,
                 format('a step has waited for it since %s, and may for %s minutes', restarted, p.minutes)
          FROM above AS a JOIN looked AS l ON l.position = a.place CROSS JOIN patience AS p
          WHERE l.state IN ('enqueued', 'in_progress', 'waiting_for_retry')) AS f
    ORDER BY f.position, f.map_index, f.pauses, f.no;
END
$$;
