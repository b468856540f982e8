-- Retries dead letters: steps run again with fresh attempts, messages go back to their queues, mended if a message is given;
-- and the letters close, all in this transaction. Of a task only the steps of its letters named here run again, together,
-- and what they blocked goes on; a task that had ended is reopened once. One batch: call again with next_after and until.
--
-- Order of locks: tasks in uuid order, of each its steps by position, then letters of messages by id. A letter is looked at
-- again under the lock of its task, so that whoever came first has settled it.
--
-- request: {ids[] | filter{} (see match_dead_letters), after, until, limit, message (of a single letter), by, reason}.
-- Returns {letters: [{id, kind, task_uuid, outcome, reason}], retried, next_after, until, queues[], notify[]}; outcome is
-- retried or refused, with the reason: not_found, already_<resolution>, no_task, no_queue.
CREATE OR REPLACE FUNCTION tasker.retry_dead_letters(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    found_ones record;
    done bigint[] := ARRAY[]::bigint[];
    gone bigint[] := ARRAY[]::bigint[];
    task record;
    t record;
    r record;
    batch record;
    queues text[] := ARRAY[]::text[];
BEGIN
    PERFORM tasker.assert_read_committed('retry_dead_letters');
    IF request ? 'message' AND (jsonb_typeof(request->'message') IS DISTINCT FROM 'object' OR tasker.json_is_deep(request->'message')) THEN
        RAISE EXCEPTION 'a message is a JSON object of at most 200 levels' USING ERRCODE = 'TK001', COLUMN = 'message';
    END IF;
    found_ones := tasker.match_dead_letters(request, NULL);
    IF request ? 'message' AND (jsonb_typeof(request->'ids') IS DISTINCT FROM 'array' OR jsonb_array_length(request->'ids') <> 1
            OR EXISTS (SELECT FROM tasker.dead_letters AS d WHERE d.id = ANY (found_ones.ids) AND d.kind = 'step')) THEN
        RAISE EXCEPTION 'a mended message stands in for that of one letter, and of no step'
            USING ERRCODE = 'TK001', COLUMN = 'message', HINT = 'name the one letter by ids, or leave the message out';
    END IF;

    FOR task IN
        SELECT d.task_uuid, array_agg(d.id) AS ids
        FROM unnest(found_ones.ids) AS k(id)
        CROSS JOIN LATERAL (SELECT x.id, x.task_uuid FROM tasker.dead_letters AS x
                            WHERE x.id = k.id AND x.kind = 'step' AND x.resolved_at IS NULL OFFSET 0) AS d
        GROUP BY d.task_uuid ORDER BY d.task_uuid
    LOOP
        PERFORM FROM tasker.tasks AS x WHERE x.task_uuid = task.task_uuid FOR NO KEY UPDATE;
        SELECT x.state, x.named_task_id INTO t FROM tasker.tasks AS x WHERE x.task_uuid = task.task_uuid;
        IF t.state IS NULL THEN
            gone := gone || task.ids;
            CONTINUE;
        END IF;
        SELECT array_agg(s.tid) AS tids, array_agg(s.position) AS positions, array_agg(s.id) AS ids INTO r
        FROM (SELECT d.id, w.tid, d.position
              FROM (SELECT x.* FROM unnest(task.ids) AS k(id)
                    CROSS JOIN LATERAL (SELECT y.* FROM tasker.dead_letters AS y
                                        WHERE y.id = k.id AND y.resolved_at IS NULL OFFSET 0) AS x
                    ORDER BY x.position, x.map_index OFFSET 0) AS d
              CROSS JOIN LATERAL (SELECT x.ctid AS tid FROM tasker.workflow_steps AS x
                                  WHERE x.task_uuid = d.task_uuid AND x.position = d.position AND x.map_index = d.map_index
                                    AND x.state = 'error' FOR NO KEY UPDATE) AS w) AS s;
        CONTINUE WHEN r.tids IS NULL;
        IF t.state = 'error' THEN
            PERFORM tasker.reopen_task(task.task_uuid, request->>'by', coalesce(request->>'reason', 'dead letters retried'));
        END IF;
        PERFORM tasker.close_dead_letters(task.task_uuid, r.positions, 'retried', request->>'by', request->>'reason');
        queues := queues || tasker.requeue_by_operator(task.task_uuid, t.named_task_id, r.tids, cardinality(r.tids), 'retried');
        done := done || r.ids;
    END LOOP;

    FOR batch IN
        SELECT d.queue, array_agg(d.id) AS ids, array_agg(coalesce(request->'message', d.snapshot->'message') ORDER BY d.id) AS messages
        FROM (SELECT x.* FROM (SELECT u.id FROM unnest(found_ones.ids) AS u(id) ORDER BY u.id OFFSET 0) AS k
              CROSS JOIN LATERAL (SELECT y.* FROM tasker.dead_letters AS y
                                  WHERE y.id = k.id AND y.kind = 'message' AND y.resolved_at IS NULL FOR NO KEY UPDATE) AS x) AS d
        WHERE to_regclass(format('pgmq.%I', 'q_' || d.queue)) IS NOT NULL
        GROUP BY d.queue
    LOOP
        PERFORM tasker.queue_send(batch.queue, batch.messages);
        UPDATE tasker.dead_letters AS d
        SET resolution = 'retried', resolved_by = request->>'by', resolved_reason = request->>'reason', resolved_at = clock_timestamp(),
            snapshot = CASE WHEN request ? 'message' THEN d.snapshot || jsonb_build_object('sent', request->'message') ELSE d.snapshot END
        WHERE d.id = ANY (batch.ids);
        queues := queues || batch.queue;
        done := done || batch.ids;
    END LOOP;

    SELECT coalesce(array_agg(DISTINCT q), '{}') INTO queues FROM unnest(queues) AS q;
    PERFORM pg_notify('tasker_' || q, '') FROM unnest(queues) AS q;
    RETURN jsonb_build_object(
        'letters', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                        'id', k.id, 'kind', d.kind, 'task_uuid', d.task_uuid,
                        'outcome', CASE WHEN k.id = ANY (done) THEN 'retried' ELSE 'refused' END,
                        'reason', CASE WHEN k.id = ANY (done) THEN NULL WHEN d.id IS NULL THEN 'not_found' WHEN k.id = ANY (gone) THEN 'no_task'
                                       WHEN d.resolution IS NOT NULL THEN 'already_' || d.resolution
                                       WHEN d.kind = 'message' THEN 'no_queue' ELSE 'not_in_error' END) ORDER BY k.id), '[]')
                    FROM unnest(found_ones.ids) AS k(id) LEFT JOIN tasker.dead_letters AS d ON d.id = k.id
                    -- What somebody settled after a filter had found it is no longer what was asked for.
                    WHERE found_ones.until IS NULL OR d.resolution IS NULL OR k.id = ANY (done)),
        'retried', cardinality(done), 'next_after', found_ones.next_after, 'until', found_ones.until,
        'queues', to_jsonb(queues), 'notify', '[]'::jsonb);
END
$$;
