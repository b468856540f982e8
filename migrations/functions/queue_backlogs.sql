-- What waits in the queues that executors serve, by kind and step queue, counted up to a bound; the three bands of a
-- namespace count as one. The task claimer's queue are the tasks that are due while their namespace is open. What waits on
-- purpose counts as nothing: messages of paused namespaces, and those that somebody reads. Internal.
CREATE OR REPLACE FUNCTION tasker.queue_backlogs(most integer)
RETURNS TABLE (kind text, queue text, depth bigint, oldest_seconds double precision)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    q record;
    band text;
    n bigint;
    oldest timestamptz;
    since timestamptz;
    moment constant timestamptz := clock_timestamp();
BEGIN
    FOR q IN SELECT 'step_executor' AS of_kind, s.queue AS of_queue, s.queue AS name,
                    array_remove(ARRAY[s.queue, CASE WHEN s.has_high THEN s.queue || '_high' END,
                                       CASE WHEN s.has_low THEN s.queue || '_low' END], NULL) AS bands,
                    s.paused_at IS NOT NULL AS paused
             FROM tasker.namespaces AS s
             UNION ALL
             SELECT f.of_kind, '', f.name, ARRAY[f.name], false
             FROM (VALUES ('task_request_processor', 'task_requests_queue'), ('step_enqueuer', 'step_enqueue'),
                          ('step_result_processor', 'orchestration_step_results'), ('task_finalizer', 'task_finalization'))
                  AS f(of_kind, name) LOOP
        kind := q.of_kind; queue := q.of_queue; depth := 0; oldest := NULL;
        IF NOT q.paused THEN
            FOREACH band IN ARRAY q.bands LOOP
                EXECUTE format('SELECT count(*), min(m.enqueued_at) FROM (SELECT x.enqueued_at FROM pgmq.%I AS x '
                               'WHERE x.vt <= $1 ORDER BY x.msg_id LIMIT $2) AS m', 'q_' || band)
                    INTO n, since USING moment, most;
                depth := depth + n; oldest := least(oldest, since);
            END LOOP;
        END IF;
        oldest_seconds := extract(epoch FROM moment - oldest);
        RETURN NEXT;
    END LOOP;

    kind := 'task_claimer'; queue := '';
    SELECT count(*), min(greatest(t.created_at, t.run_at)) INTO depth, oldest
    FROM (SELECT x.named_task_id, x.created_at, x.run_at FROM tasker.tasks AS x
          WHERE x.admitted_at IS NULL AND x.finished_at IS NULL AND NOT x.scheduled AND x.state = 'pending'
          ORDER BY x.priority DESC, x.task_uuid LIMIT most) AS t
    JOIN tasker.named_tasks AS w USING (named_task_id)
    JOIN tasker.namespaces AS s ON s.name = w.namespace
    WHERE s.admission = 'open';
    oldest_seconds := extract(epoch FROM tasker.now() - oldest);
    RETURN NEXT;
END
$$;
