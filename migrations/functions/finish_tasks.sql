-- Ends tasks that have no live step left: counts their steps once, decides complete or error, and makes them final at once
-- unless there is after-work. Internal: every caller holds the locks of these tasks.
CREATE OR REPLACE FUNCTION tasker.finish_tasks(task_uuids uuid[], OUT finished jsonb, OUT queues text[])
LANGUAGE plpgsql
AS $$
DECLARE
    f record;
    ended record;
BEGIN
    SELECT array_agg(c.task_uuid) AS tasks, array_agg(CASE WHEN c.failed = 0 AND c.open = 0 THEN 'complete' ELSE 'error' END) AS become,
           array_agg(c.open) AS open, array_agg(c.failed) AS failed, array_agg(c.skipped) AS skipped, array_agg(c.state) AS states
    INTO f
    FROM (SELECT k.task_uuid, t.state, n.open, n.failed, n.skipped
          FROM (SELECT u.task_uuid FROM unnest(task_uuids) AS u(task_uuid) ORDER BY u.task_uuid OFFSET 0) AS k
          CROSS JOIN LATERAL (SELECT x.state FROM tasker.tasks AS x WHERE x.task_uuid = k.task_uuid OFFSET 0) AS t
          CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE s.finished_at IS NULL)::integer AS open,
                                     count(*) FILTER (WHERE s.state = 'error')::integer AS failed,
                                     count(*) FILTER (WHERE s.state = 'skipped')::integer AS skipped
                              FROM tasker.workflow_steps AS s WHERE s.task_uuid = k.task_uuid) AS n) AS c;
    ended := tasker.end_tasks(f.tasks, f.states, f.become, f.open, f.failed, f.skipped, NULL, NULL, clock_timestamp());
    finished := ended.finished; queues := ended.queues;
END
$$;
