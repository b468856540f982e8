-- The StepEnqueuer's work: sends the messages that a burst left behind, 256 for each step_enqueue message, and passes on
-- where to go on. Its message and theirs change in one transaction; counters and states are not its business: the steps have
-- long been "enqueued". Nothing is sent for terminal tasks, nor for paused ones (resume sends for all).
-- request: {limit}. Returns {taken, sent, queues[]}.
CREATE OR REPLACE FUNCTION tasker.enqueue_deferred_steps(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    burst constant integer := 256;
    quantity constant integer := least(greatest(coalesce((request->>'limit')::integer, 10), 1), 100);
    batch record;
    message record;
    part record;
    used bigint[] := ARRAY[]::bigint[];
    onward jsonb[] := ARRAY[]::jsonb[];
    queues text[] := ARRAY[]::text[];
    sent integer := 0;
BEGIN
    PERFORM tasker.assert_read_committed('enqueue_deferred_steps');
    SELECT q.msg_ids, q.messages INTO batch FROM tasker.queue_lock('step_enqueue', 0, quantity) AS q;
    IF batch.msg_ids IS NULL THEN
        RETURN '{"taken": 0, "sent": 0, "queues": []}'::jsonb;
    END IF;
    PERFORM tasker.bury_messages(array_agg('step_enqueue'::text), array_agg(m.msg_id), array_agg(m.body), 'not_a_step_enqueue_message')
    FROM unnest(batch.msg_ids, batch.messages) AS m(msg_id, body)
    WHERE NOT tasker.is_step_enqueue_message(m.body) HAVING count(*) > 0;

    FOR message IN
        SELECT m.msg_id, m.task_uuid, m.parent, m.from_index, t.state, t.finished_at, t.named_task_id
        FROM (SELECT u.msg_id, (u.body->>'task_uuid')::uuid AS task_uuid, (u.body->>'position')::integer AS parent,
                     (u.body->>'from_index')::integer AS from_index
              FROM unnest(batch.msg_ids, batch.messages) AS u(msg_id, body)
              WHERE tasker.is_step_enqueue_message(u.body) ORDER BY 2, 3, 4 OFFSET 0) AS m
        CROSS JOIN LATERAL (SELECT x.state, x.finished_at, x.named_task_id FROM tasker.tasks AS x
                            WHERE x.task_uuid = m.task_uuid FOR NO KEY UPDATE SKIP LOCKED) AS t
    LOOP
        used := used || message.msg_id;
        CONTINUE WHEN message.finished_at IS NOT NULL OR message.state = 'paused';
        IF message.parent >= 0 THEN
            SELECT array_agg(s.task_uuid) AS tasks, array_agg(s.step_uuid) AS steps, array_agg(s.position) AS positions,
                   array_agg(0) AS maps, array_agg(n.queue) AS queues, array_agg(message.parent) AS parents,
                   min(message.from_index + burst) AS next_index, bool_or(p.more) AS more
            INTO part
            FROM (SELECT x.dependents[message.from_index + 1:message.from_index + burst] AS some,
                         cardinality(x.dependents) > message.from_index + burst AS more
                  FROM tasker.named_steps AS x
                  WHERE x.named_task_id = message.named_task_id AND x.position = message.parent OFFSET 0) AS p
            CROSS JOIN unnest(p.some) AS e(child)
            LEFT JOIN LATERAL (SELECT x.* FROM tasker.workflow_steps AS x
                               WHERE x.task_uuid = message.task_uuid AND x.position = e.child AND x.map_index = 0
                                 AND x.state = 'enqueued' AND tasker.has_no_timer(x.task_uuid, x.position, x.map_index)
                               OFFSET 0) AS s ON true
            LEFT JOIN LATERAL (SELECT x.queue FROM tasker.named_steps AS x
                               WHERE x.named_task_id = message.named_task_id AND x.position = e.child OFFSET 0) AS n ON true;
        ELSE
            SELECT array_agg(s.task_uuid) AS tasks, array_agg(s.step_uuid) AS steps, array_agg(s.position) AS positions,
                   array_agg(s.map_index) AS maps, array_agg(n.queue) AS queues, array_agg(-1) AS parents,
                   max(s.position) + 1 AS next_index, count(*) = burst AS more
            INTO part
            FROM (SELECT x.* FROM tasker.workflow_steps AS x
                  WHERE x.task_uuid = message.task_uuid AND x.position >= message.from_index
                    AND x.state = 'enqueued' AND tasker.has_no_timer(x.task_uuid, x.position, x.map_index)
                  ORDER BY x.task_uuid, x.position, x.map_index LIMIT burst) AS s
            CROSS JOIN LATERAL (SELECT x.queue FROM tasker.named_steps AS x
                                WHERE x.named_task_id = message.named_task_id AND x.position = s.position OFFSET 0) AS n;
        END IF;
        IF part.more THEN
            onward := onward || jsonb_build_object('task_uuid', message.task_uuid, 'position', message.parent, 'map_index', 0,
                                                   'from_index', part.next_index);
        END IF;
        SELECT array_agg(k.t) AS tasks, array_agg(k.s) AS steps, array_agg(k.p) AS positions, array_agg(k.m) AS maps,
               array_agg(k.q) AS queues, array_agg(k.r) AS parents
        INTO part
        FROM unnest(part.tasks, part.steps, part.positions, part.maps, part.queues, part.parents) AS k(t, s, p, m, q, r)
        WHERE k.t IS NOT NULL;
        IF part.tasks IS NOT NULL THEN
            queues := queues || tasker.send_step_messages(part.tasks, part.steps, part.positions, part.maps, part.queues, part.parents);
            sent := sent + cardinality(part.tasks);
        END IF;
    END LOOP;
    -- A message whose task does not exist (pruned) is used up; one whose task is locked by another is not.
    SELECT used || coalesce(array_agg(m.msg_id), '{}') INTO used
    FROM unnest(batch.msg_ids, batch.messages) AS m(msg_id, body)
    WHERE tasker.is_step_enqueue_message(m.body)
      AND NOT EXISTS (SELECT FROM tasker.tasks AS x WHERE x.task_uuid = (m.body->>'task_uuid')::uuid);
    PERFORM tasker.queue_remove('step_enqueue', used);
    IF cardinality(onward) > 0 THEN
        PERFORM tasker.queue_send('step_enqueue', onward);
    END IF;
    RETURN jsonb_build_object('taken', cardinality(used), 'sent', sent,
                              'queues', to_jsonb(ARRAY(SELECT DISTINCT q FROM unnest(tasker.queues_with_idle_consumer(queues)) AS q)));
END
$$;
