-- Sends the messages of steps to their queues, at most 256 in one call, and leaves the rest to the StepEnqueuer: one
-- step_enqueue message for each parent, saying from where in its dependents messages are still missing. The caller has
-- already made all of the steps "enqueued": only their messages may come later. "parents" is the position whose dependents
-- the steps are; -1 means the task itself, and from_index is then a position. Each message goes to the queue of its task's
-- priority band. Returns the queues that got a message, by the name that executors serve, whatever the band.
CREATE OR REPLACE FUNCTION tasker.send_step_messages(
    task_uuids uuid[], step_uuids uuid[], positions integer[], map_indexes integer[], queues text[], parents integer[])
RETURNS text[]
LANGUAGE plpgsql
AS $$
DECLARE
    burst constant integer := 256;
    batch record;
    sent text[] := ARRAY[]::text[];
    deferred jsonb[];
BEGIN
    FOR batch IN
        SELECT s.queue, b.band, array_agg(jsonb_build_object('task_uuid', s.task_uuid, 'step_uuid', s.step_uuid,
                                                             'position', s.step_position, 'map_index', s.map_index) ORDER BY s.no) AS messages
        FROM unnest(task_uuids, step_uuids, positions, map_indexes, queues)
             WITH ORDINALITY AS s(task_uuid, step_uuid, step_position, map_index, queue, no)
        CROSS JOIN LATERAL (SELECT CASE WHEN x.priority = 0 THEN s.queue ELSE tasker.band_of(s.queue, x.priority) END AS band FROM tasker.tasks AS x
                            WHERE x.task_uuid = s.task_uuid OFFSET 0) AS b
        WHERE s.no <= burst
        GROUP BY s.queue, b.band
    LOOP
        PERFORM tasker.queue_send(batch.band, batch.messages);
        sent := sent || batch.queue;
    END LOOP;

    IF cardinality(task_uuids) > burst THEN
        SELECT array_agg(jsonb_build_object('task_uuid', d.task_uuid, 'position', d.parent, 'map_index', 0,
                                            'from_index', d.from_index))
        INTO deferred
        FROM (SELECT r.task_uuid, r.parent,
                     -- Dependents are listed by position, so the first of them stands before all others.
                     CASE WHEN r.parent < 0 THEN r.first_position
                          ELSE array_position(n.dependents, r.first_position) - 1 END AS from_index
              FROM (SELECT u.task_uuid, u.parent, min(u.step_position) AS first_position
                    FROM unnest(task_uuids[burst + 1:], positions[burst + 1:], parents[burst + 1:])
                         AS u(task_uuid, step_position, parent)
                    GROUP BY u.task_uuid, u.parent) AS r
              CROSS JOIN LATERAL (SELECT x.named_task_id FROM tasker.tasks AS x WHERE x.task_uuid = r.task_uuid OFFSET 0) AS t
              LEFT JOIN LATERAL (SELECT x.dependents FROM tasker.named_steps AS x
                                 WHERE x.named_task_id = t.named_task_id AND x.position = r.parent OFFSET 0) AS n ON true) AS d;
        PERFORM tasker.queue_send('step_enqueue', deferred);
        sent := sent || 'step_enqueue'::text;
    END IF;
    RETURN sent;
END
$$;
