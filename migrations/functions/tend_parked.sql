-- The net below the wakes of parked steps: those whose circuit is closed, and those whose limit has room, go on. Wakes are
-- missed where a step was lost or cancelled under a limit, where a limit was widened, or by one unlucky moment. Also deletes
-- holders that hold nothing any more. request: {limit: timers of one key, and holders; keys: how many are looked at (default
-- 5000); after: the last one that was}. Returns {queues[]: those that have something due, after: for the next call; none at the end}.
CREATE OR REPLACE FUNCTION tasker.tend_parked(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    most constant integer := least(greatest(coalesce((request->>'limit')::integer, 1000), 1), 10000);
    most_keys constant integer := coalesce((request->>'keys')::integer, 5000);
    waits_for text := coalesce(request->>'after', '');
    n_keys integer := 0;
    last_key text;
    width integer;
    room integer;
    n_locked integer := 0;
    queues text[] := ARRAY[]::text[];
BEGIN
    PERFORM tasker.assert_read_committed('tend_parked');
    DELETE FROM tasker.limit_holders AS h
    WHERE h.ctid = ANY (ARRAY(
        SELECT x.ctid FROM tasker.limit_holders AS x
        WHERE NOT EXISTS (SELECT FROM tasker.workflow_steps AS s
                          WHERE s.task_uuid = x.task_uuid AND s.position = x.position AND s.map_index = x.map_index
                            AND s.state = 'in_progress' AND s.fence = x.fence)
        LIMIT most FOR UPDATE SKIP LOCKED));
    -- Whoever tries a circuit and is gone will not say what came of it; and times far ahead are those of a clock that was set back.
    UPDATE tasker.circuit_breakers AS c SET probe_until = tasker.now()
    WHERE c.ctid = ANY (ARRAY(
        SELECT x.ctid FROM tasker.circuit_breakers AS x
        WHERE x.state = 'half_open' AND x.probe_until > tasker.now()
          AND (x.probe_until > tasker.now() + interval '1 day'
               OR tasker.is_uuid(x.changed_by) AND NOT EXISTS (
                   SELECT FROM tasker.executors AS e
                   WHERE e.executor = CASE WHEN tasker.is_uuid(x.changed_by) THEN x.changed_by::uuid END AND e.lost_at IS NULL))
        FOR NO KEY UPDATE SKIP LOCKED));
    UPDATE tasker.circuit_breakers AS c SET retry_at = tasker.now() + make_interval(secs => c.timeout_seconds)
    WHERE c.ctid = ANY (ARRAY(
        SELECT x.ctid FROM tasker.circuit_breakers AS x
        WHERE x.state = 'open' AND x.retry_at > tasker.now() + make_interval(secs => x.timeout_seconds + 1)
        FOR NO KEY UPDATE SKIP LOCKED));
    LOOP
        -- From key to key, however many wait for one.
        SELECT w.key INTO waits_for FROM tasker.step_timers AS w
        WHERE w.key IS NOT NULL AND w.key > waits_for ORDER BY w.key LIMIT 1;
        IF NOT FOUND THEN
            last_key := NULL;
            EXIT;
        END IF;
        EXIT WHEN n_keys >= most_keys OR n_locked >= 1000;
        last_key := waits_for;
        n_keys := n_keys + 1;
        IF waits_for LIKE 'circuit:%' THEN
            IF NOT EXISTS (SELECT FROM tasker.circuit_breakers AS c WHERE c.name = substr(waits_for, 9) AND c.state <> 'closed') THEN
                queues := queues || tasker.unpark_steps(waits_for, most, true);
            END IF;
        ELSIF waits_for LIKE 'ns:%' OR waits_for LIKE 'key:%' THEN
            width := NULL;
            IF waits_for LIKE 'ns:%' THEN
                SELECT n.max_concurrency INTO width FROM tasker.namespaces AS n WHERE n.name = substr(waits_for, 4);
            ELSE
                SELECT d.key_max_concurrency INTO width
                FROM (SELECT w.task_uuid FROM tasker.step_timers AS w WHERE w.key = waits_for ORDER BY w.set_at LIMIT 1) AS w
                CROSS JOIN LATERAL (SELECT t.named_task_id FROM tasker.tasks AS t WHERE t.task_uuid = w.task_uuid OFFSET 0) AS t
                CROSS JOIN LATERAL (SELECT x.key_max_concurrency FROM tasker.named_tasks AS x
                                    WHERE x.named_task_id = t.named_task_id OFFSET 0) AS d;
            END IF;
            -- Counted first without the lock: most are full, and each lock lasts until this ends, one of a number that the server has.
            room := most;
            IF width IS NOT NULL THEN
                CONTINUE WHEN tasker.limit_in_use(waits_for) >= width;
                n_locked := n_locked + 1;
                room := tasker.limit_room(waits_for, width);
            END IF;
            IF room > 0 THEN
                queues := queues || tasker.unpark_steps(waits_for, least(room, most), false);
            END IF;
        END IF;
    END LOOP;
    RETURN jsonb_build_object('queues', to_jsonb(ARRAY(SELECT DISTINCT q FROM unnest(queues) AS q)), 'after', last_key);
END
$$;
