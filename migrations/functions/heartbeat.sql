-- Says that an executor lives and what it still holds. request: executor, oldest_call_no (the oldest call it holds, or the
-- next one it will make), next_call_no and held_calls[] (optional: all that it holds below the next), idle (optional), counters, expected_ms {"named_task_id:position": milliseconds},
-- silence {poll_seconds, work_seconds: since it last asked its queues, and since it last worked; null: never} and trouble
-- (what it says is wrong with it; null: nothing), both optional: see tasker.judge_executors.
-- Returns {stop_requested, health, steps_lost[]}: the steps in its receipts that are no longer its own, and why; health is
-- what the last tick found.
-- An unknown heartbeat is not a loss: see tasker.recover_lost_steps.
CREATE OR REPLACE FUNCTION tasker.heartbeat(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    first_of integer[];
    first_callables text[];
    first_means double precision[];
    me constant uuid := (request->>'executor')::uuid;
    e record;
    lost jsonb;
BEGIN
    UPDATE tasker.executors AS x
    SET heartbeat_at = clock_timestamp(), oldest_call_no = greatest(x.oldest_call_no, (request->>'oldest_call_no')::bigint),
        -- Never back to what an older heartbeat said: what was dropped since then would count as held again.
        next_call_no = greatest(x.next_call_no, (request->>'next_call_no')::bigint),
        held_calls = CASE WHEN (request->>'next_call_no')::bigint >= coalesce(x.next_call_no, 1)
                          THEN tasker.whole_numbers(request->'held_calls') ELSE x.held_calls END,
        idle = coalesce((request->>'idle')::boolean, x.idle), counters = coalesce(tasker.checked_counters(request->'counters'), x.counters),
        -- One that tells of its polls and has made none counts from its registration; one that does not tell stays unknown.
        polled_at = CASE WHEN jsonb_typeof(request->'silence') = 'object'
                         THEN coalesce(clock_timestamp() - make_interval(secs => (request->'silence'->>'poll_seconds')::double precision),
                                       x.polled_at, x.registered_at) ELSE x.polled_at END,
        worked_at = coalesce(clock_timestamp() - make_interval(secs => (request->'silence'->>'work_seconds')::double precision), x.worked_at),
        trouble = CASE WHEN request ? 'trouble' THEN request->>'trouble' ELSE x.trouble END
    WHERE x.executor = me AND x.lost_at IS NULL
    RETURNING x.stop_requested, x.health INTO e;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'executor % is lost or not registered', coalesce(me::text, 'null')
            USING ERRCODE = 'TK006', HINT = 'register anew under a new uuid; the steps it held are given to others';
    END IF;

    IF jsonb_typeof(request->'expected_ms') = 'object' AND request->'expected_ms' <> '{}' THEN
        -- In key order, so that two heartbeats cannot wait for one another; busy rows are left to the next heartbeat.
        WITH measured AS (
            SELECT split_part(m.key, ':', 1)::integer AS id, split_part(m.key, ':', 2)::integer AS step_position,
                   (m.value #>> '{}')::double precision AS ms
            FROM jsonb_each(request->'expected_ms') AS m
            WHERE m.key ~ '^[0-9]{1,9}:[0-9]{1,5}$' AND jsonb_typeof(m.value) = 'number'
        ), locked AS MATERIALIZED (
            SELECT n.tid, m.ms, n.expected_ms
            FROM (SELECT * FROM measured ORDER BY id, step_position OFFSET 0) AS m
            CROSS JOIN LATERAL (SELECT x.ctid AS tid, x.expected_ms FROM tasker.named_steps AS x
                                WHERE x.named_task_id = m.id AND x.position = m.step_position
                                FOR NO KEY UPDATE SKIP LOCKED) AS n
        ), changed AS (
            UPDATE tasker.named_steps AS s
            SET expected_ms = coalesce(l.expected_ms * 0.7 + greatest(l.ms, 0) * 0.3, greatest(l.ms, 0))
            FROM locked AS l
            WHERE s.ctid = l.tid AND (l.expected_ms IS NULL OR abs(l.expected_ms - l.ms) > 0.1 * l.expected_ms + 0.01)
            RETURNING s.named_task_id, s.handler->>'callable' AS callable, s.expected_ms, l.expected_ms IS NULL AS is_first
        )
        SELECT array_agg(f.named_task_id), array_agg(f.callable), array_agg(f.mean) INTO first_of, first_callables, first_means
        FROM (SELECT c.named_task_id, c.callable, avg(c.expected_ms) AS mean FROM changed AS c
              WHERE c.is_first AND c.callable IS NOT NULL GROUP BY c.named_task_id, c.callable
              ORDER BY c.named_task_id, c.callable) AS f;
    END IF;
    IF first_of IS NOT NULL THEN
        -- Steps of the same workflow with the same handler take as long until they are known better. Else each of a
        -- thousand siblings would be claimed alone in the workflow's first run, since what is unknown counts as a whole budget.
        WITH alike AS MATERIALIZED (
            SELECT n.tid, f.mean
            FROM unnest(first_of, first_callables, first_means) AS f(id, callable, mean)
            CROSS JOIN LATERAL (SELECT x.ctid AS tid FROM tasker.named_steps AS x
                                WHERE x.named_task_id = f.id AND x.expected_ms IS NULL AND x.handler->>'callable' = f.callable
                                ORDER BY x.position FOR NO KEY UPDATE SKIP LOCKED) AS n
        )
        UPDATE tasker.named_steps AS s SET expected_ms = a.mean FROM alike AS a WHERE s.ctid = a.tid;
    END IF;

    SELECT jsonb_agg(jsonb_build_object('task_uuid', s.task_uuid, 'step_uuid', s.step_uuid, 'position', s.position,
                                        'map_index', s.map_index, 'fence', k.fence,
                                        'reason', CASE WHEN s.state = 'in_progress' THEN 'taken_over' ELSE s.state END))
    INTO lost
    FROM (SELECT c.* FROM tasker.step_claims AS c WHERE c.executor = me OFFSET 0) AS c
    CROSS JOIN LATERAL unnest(c.task_uuids, c.positions, c.map_indexes, c.fences) AS k(task_uuid, step_position, map_index, fence)
    CROSS JOIN LATERAL (SELECT x.* FROM tasker.workflow_steps AS x
                        WHERE x.task_uuid = k.task_uuid AND x.position = k.step_position AND x.map_index = k.map_index
                        OFFSET 0) AS s
    -- A step whose own report is still under way answers for itself; only foreign decisions are news.
    WHERE s.state IN ('cancelled', 'resolved_manually') OR s.fence <> k.fence
       OR (s.state = 'error' AND starts_with(s.error->>'type', 'lifecycle_'));
    RETURN jsonb_build_object('stop_requested', e.stop_requested, 'health', e.health, 'steps_lost', coalesce(lost, '[]'));
END
$$;
