-- Measures how much there is to do, and decides by it what becomes of new tasks: they start at once (open), wait as "pending"
-- (soft), or are refused (hard). Whoever admits tasks calls this; it does nothing when somebody else is at it or measured
-- less than every_seconds (2) ago. Each namespace is judged by its own queues; what it shares with all by the rest.
--
-- request: soft_queue_depth, hard_queue_depth (steps that wait in its queues, for the hard limit with the tasks that wait),
-- max_oldest_message_seconds, max_concurrent_tasks, max_concurrent_steps (tasks and live steps of all namespaces),
-- max_pool_usage (share of the server's connections in use); a limit left out is none. retry_after_seconds, every_seconds.
-- Returns {measured, next_seconds (when to measure again, if anything waits), namespaces {name: {admission, reason}}} with those
-- that are not open.
CREATE OR REPLACE FUNCTION tasker.measure_admission(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    every constant double precision := coalesce((request->>'every_seconds')::double precision, 2);
    soft constant bigint := (request->>'soft_queue_depth')::bigint;
    hard constant bigint := (request->>'hard_queue_depth')::bigint;
    max_age constant double precision := (request->>'max_oldest_message_seconds')::double precision;
    max_tasks constant bigint := (request->>'max_concurrent_tasks')::bigint;
    max_steps constant bigint := (request->>'max_concurrent_steps')::bigint;
    max_usage constant double precision := (request->>'max_pool_usage')::double precision;
    retry_after constant double precision := coalesce((request->>'retry_after_seconds')::double precision, 5);
    n record;
    queue text;
    part_depth bigint;
    part_oldest timestamptz;
    depth bigint;
    waiting bigint;
    oldest timestamptz;
    open_tasks bigint;
    live_steps bigint;
    connections record;
    shared_reason text;
    shared_room bigint;
    become text;
    why text;
    room bigint;
    closed jsonb := jsonb '{}';
    with_waiting text[];
    shares integer;
    share bigint;
BEGIN
    PERFORM tasker.assert_read_committed('measure_admission');
    IF NOT pg_try_advisory_xact_lock(1413567307, -3)
       OR EXISTS (SELECT FROM tasker.namespaces AS x
                  WHERE x.admission_at > clock_timestamp() - make_interval(secs => every) AND x.admission_at <= clock_timestamp()) THEN
        RETURN jsonb_build_object('measured', false, 'next_seconds', CASE WHEN EXISTS (
            SELECT FROM tasker.namespaces AS x WHERE x.admission <> 'open') THEN every END, 'namespaces', '{}'::jsonb);
    END IF;

    IF max_usage IS NOT NULL THEN
        SELECT c.used, current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer AS possible
        INTO connections
        FROM (SELECT sum(d.numbackends) AS used FROM pg_stat_database AS d) AS c;
        IF connections.used > max_usage * connections.possible THEN
            shared_reason := format('database_connections: %s of %s are in use', connections.used, connections.possible);
            shared_room := 0;
        END IF;
    END IF;
    IF shared_reason IS NULL AND (max_tasks IS NOT NULL OR max_steps IS NOT NULL) THEN
        SELECT count(*), coalesce(sum(t.active), 0) INTO open_tasks, live_steps
        FROM (SELECT x.active FROM tasker.tasks AS x WHERE x.finished_at IS NULL AND x.admitted_at IS NOT NULL
              LIMIT greatest(coalesce(max_tasks, 0), coalesce(max_steps, 0)) + 1) AS t;
        IF open_tasks >= max_tasks THEN
            shared_reason := format('max_concurrent_tasks: %s tasks are under way', open_tasks);
        ELSIF live_steps >= max_steps THEN
            shared_reason := format('max_concurrent_steps: %s steps are under way', live_steps);
        END IF;
        shared_room := greatest(least(max_tasks - open_tasks, max_steps - live_steps), 0);
    END IF;
    -- What there is room for is shared among those who have tasks waiting.
    with_waiting := ARRAY(SELECT x.name FROM tasker.namespaces AS x
                          WHERE EXISTS (SELECT FROM tasker.named_tasks AS d JOIN tasker.tasks AS t ON t.named_task_id = d.named_task_id
                                        WHERE d.namespace = x.name AND t.admitted_at IS NULL AND t.finished_at IS NULL AND NOT t.scheduled));
    shares := cardinality(with_waiting);

    -- In an order as good as drawn: what cannot be divided falls to one now, to another later.
    FOR n IN SELECT x.name, x.queue, x.has_high, x.has_low, x.paused_at, x.admission, row_number() OVER (ORDER BY x.name) = 1 AS is_first,
                    x.name = ANY (with_waiting) AS waits
             FROM tasker.namespaces AS x ORDER BY random() LOOP
        share := shared_room;
        IF n.waits THEN
            share := ceil(shared_room::double precision / greatest(shares, 1));
            shared_room := shared_room - share; shares := shares - 1;
        END IF;
        depth := 0; oldest := NULL; waiting := 0;
        FOREACH queue IN ARRAY ARRAY[n.queue] || CASE WHEN n.has_high THEN ARRAY[n.queue || '_high'] ELSE '{}'::text[] END
                                              || CASE WHEN n.has_low THEN ARRAY[n.queue || '_low'] ELSE '{}'::text[] END LOOP
            EXECUTE format('SELECT (SELECT count(*) FROM (SELECT FROM pgmq.%1$I AS m LIMIT $1) AS x) AS depth,
                                   (SELECT m.enqueued_at FROM pgmq.%1$I AS m ORDER BY m.msg_id LIMIT 1) AS oldest', 'q_' || queue)
                INTO part_depth, part_oldest USING coalesce(greatest(soft, hard), 0) + 1;
            depth := depth + part_depth;
            oldest := least(oldest, part_oldest);
        END LOOP;
        IF hard IS NOT NULL OR n.admission <> 'open' OR depth >= soft THEN
            SELECT count(*) INTO waiting
            FROM (SELECT FROM tasker.named_tasks AS d
                  CROSS JOIN LATERAL (SELECT FROM tasker.tasks AS t
                                      WHERE t.named_task_id = d.named_task_id AND t.admitted_at IS NULL AND t.finished_at IS NULL
                                        AND NOT t.scheduled LIMIT greatest(hard, soft, 1000)) AS w
                  WHERE d.namespace = n.name LIMIT greatest(hard, soft, 1000)) AS x;
        END IF;
        become := 'open'; why := NULL; room := NULL;
        IF shared_reason IS NOT NULL THEN
            become := 'soft'; why := shared_reason; room := 0;
        ELSIF depth >= soft THEN
            become := 'soft'; why := format('queue_depth: %s steps wait in its queues', depth); room := 0;
        ELSIF max_age IS NOT NULL AND n.paused_at IS NULL AND oldest < clock_timestamp() - make_interval(secs => max_age) THEN
            become := 'soft'; why := format('oldest_message: a step waits since %s', oldest); room := 0;
        ELSIF waiting > 0 AND (soft IS NOT NULL OR shared_room IS NOT NULL) THEN
            -- There is room again, but not for all that wait: they go first, and new ones behind them.
            room := least(soft - depth, share);
            IF waiting > room THEN
                become := 'soft'; why := format('draining: %s tasks or more wait', waiting);
            END IF;
        END IF;
        IF depth + waiting >= hard THEN
            become := 'hard'; why := format('%s steps and tasks wait', depth + waiting); room := coalesce(room, 0);
        END IF;
        IF become <> 'open' THEN
            closed := closed || jsonb_build_object(n.name, jsonb_build_object('admission', become, 'reason', why));
        END IF;
        -- Somebody's open transaction may hold a namespace's row (ensure_bands): what was measured last stands. One row is always
        -- written, to say when that was.
        PERFORM FROM tasker.namespaces AS x WHERE x.name = n.name FOR NO KEY UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND OR (become = 'open' AND n.admission = 'open' AND NOT n.is_first);
        UPDATE tasker.namespaces AS x
        SET admission = become, admission_reason = why, admission_room = CASE WHEN become <> 'open' THEN least(room, 2147483647)::integer END,
            admission_retry_seconds = CASE WHEN become <> 'open' THEN retry_after END, admission_at = clock_timestamp()
        WHERE x.name = n.name;
    END LOOP;
    RETURN jsonb_build_object('measured', true, 'next_seconds', CASE WHEN closed <> '{}' THEN every END, 'namespaces', closed);
END
$$;
