-- Audits and sends the messages of the roots of tasks that were just admitted, whose root steps the caller has made
-- "enqueued". Beyond 256 roots of one task, the rest of its messages go out by the StepEnqueuer. Returns the queues.
CREATE OR REPLACE FUNCTION tasker.enqueue_roots(task_uuids uuid[]) RETURNS text[]
LANGUAGE plpgsql
AS $$
DECLARE
    burst constant integer := 256;
    batch record;
    queues text[] := ARRAY[]::text[];
    deferred jsonb[];
BEGIN
    IF cardinality(task_uuids) = 0 THEN
        RETURN queues;
    END IF;
    INSERT INTO tasker.workflow_step_transitions (task_uuid, position, map_index, fence, from_state, to_state, reason)
    SELECT a.task_uuid, s.position, 0, 0, 'pending', 'enqueued', 'admitted'
    FROM unnest(task_uuids) AS a(task_uuid)
    CROSS JOIN LATERAL (SELECT x.named_task_id FROM tasker.tasks AS x WHERE x.task_uuid = a.task_uuid OFFSET 0) AS t
    CROSS JOIN LATERAL (SELECT x.position FROM tasker.named_steps AS x
                        WHERE x.named_task_id = t.named_task_id AND x.depends_on = '{}' OFFSET 0) AS s
    CROSS JOIN LATERAL (SELECT x.state FROM tasker.workflow_steps AS x
                        WHERE x.task_uuid = a.task_uuid AND x.position = s.position AND x.map_index = 0 OFFSET 0) AS w
    WHERE w.state = 'enqueued';

    FOR batch IN
        SELECT r.queue, r.band, array_agg(jsonb_build_object('task_uuid', r.task_uuid, 'step_uuid', r.step_uuid,
                                                             'position', r.position, 'map_index', 0) ORDER BY r.no, r.position) AS messages
        FROM (SELECT a.no, a.task_uuid, w.step_uuid, s.position, s.queue, tasker.band_of(s.queue, t.priority) AS band,
                     row_number() OVER (PARTITION BY a.no ORDER BY s.position) AS root_no
              FROM unnest(task_uuids) WITH ORDINALITY AS a(task_uuid, no)
              CROSS JOIN LATERAL (SELECT x.named_task_id, x.priority FROM tasker.tasks AS x WHERE x.task_uuid = a.task_uuid OFFSET 0) AS t
              CROSS JOIN LATERAL (SELECT x.position, x.queue FROM tasker.named_steps AS x
                                  WHERE x.named_task_id = t.named_task_id AND x.depends_on = '{}' OFFSET 0) AS s
              CROSS JOIN LATERAL (SELECT x.state, x.step_uuid FROM tasker.workflow_steps AS x
                                  WHERE x.task_uuid = a.task_uuid AND x.position = s.position AND x.map_index = 0 OFFSET 0) AS w
              WHERE w.state = 'enqueued') AS r
        WHERE r.root_no <= burst
        GROUP BY r.queue, r.band
    LOOP
        PERFORM tasker.queue_send(batch.band, batch.messages);
        queues := queues || batch.queue;
    END LOOP;

    SELECT array_agg(jsonb_build_object('task_uuid', d.task_uuid, 'position', -1, 'map_index', 0, 'from_index', d.from_index))
    INTO deferred
    FROM (SELECT a.task_uuid, (array_agg(s.position ORDER BY s.position))[burst + 1] AS from_index
          FROM unnest(task_uuids) AS a(task_uuid)
          CROSS JOIN LATERAL (SELECT x.named_task_id FROM tasker.tasks AS x
                              WHERE x.task_uuid = a.task_uuid AND x.active > burst OFFSET 0) AS t
          CROSS JOIN LATERAL (SELECT x.position FROM tasker.named_steps AS x
                              WHERE x.named_task_id = t.named_task_id AND x.depends_on = '{}' OFFSET 0) AS s
          GROUP BY a.task_uuid) AS d
    WHERE d.from_index IS NOT NULL;
    IF deferred IS NOT NULL THEN
        PERFORM tasker.queue_send('step_enqueue', deferred);
        queues := queues || 'step_enqueue'::text;
    END IF;
    RETURN queues;
END
$$;
