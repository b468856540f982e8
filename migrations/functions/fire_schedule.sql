-- Makes the tasks of slots that are due, and moves the schedule on, in one transaction: of any number of callers that saw the
-- same slot one fires it, and the others are told so. A slot's task has an identity of its own, so that it would not be made
-- twice even if the schedule were removed and made anew.
-- request: {name, expected_due_at (the slot that the caller takes to be next), slots[] (those to fire, in order; none where
-- they were missed and shall not be made up for), next_due_at (the slot after all that are due)}.
-- Returns {fired: whether the schedule moved on, task_uuids[]}.
CREATE OR REPLACE FUNCTION tasker.fire_schedule(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    s tasker.schedules;
    due constant timestamptz := (request->>'expected_due_at')::timestamptz;
    following constant timestamptz := (request->>'next_due_at')::timestamptz;
    slots constant timestamptz[] := ARRAY(SELECT x::timestamptz FROM jsonb_array_elements_text(request->'slots') AS x);
    created jsonb := jsonb '[]';
    uuids uuid[];
BEGIN
    PERFORM tasker.assert_read_committed('fire_schedule');
    -- Skipped where another holds it: that one fires it.
    SELECT * INTO s FROM tasker.schedules AS x WHERE x.name = request->>'name' FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND OR s.paused_at IS NOT NULL OR s.next_due_at IS DISTINCT FROM due OR due > tasker.now() THEN
        RETURN jsonb_build_object('fired', false, 'task_uuids', '[]'::jsonb);
    END IF;
    IF following IS NULL OR following <= due OR following <= ANY (slots) OR due > ANY (slots) OR tasker.now() < ANY (slots) THEN
        RAISE EXCEPTION 'slots must be due, from % on, and next_due_at after them', due
            USING ERRCODE = 'TK001', COLUMN = 'slots';
    END IF;
    IF cardinality(slots) > 0 THEN
        created := tasker.create_tasks(ARRAY(
            SELECT s.task || jsonb_build_object(
                'identity_strategy', 'caller_provided',
                'identity_key', format('schedule %s %s', s.name, to_char(slot AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')),
                'run_at', slot, 'requested_by', 'schedule:' || s.name,
                'tags', coalesce(nullif(s.task->'tags', 'null'), '[]') || to_jsonb('schedule:' || s.name))
            FROM unnest(slots) AS slot ORDER BY slot));
    END IF;
    SELECT coalesce(array_agg((c.entry->>'task_uuid')::uuid ORDER BY c.no), '{}') INTO uuids
    FROM jsonb_array_elements(created) WITH ORDINALITY AS c(entry, no);
    UPDATE tasker.schedules AS x
    SET next_due_at = following, look_at = following, failure = NULL, failed_at = NULL, fired = x.fired + cardinality(slots),
        last_due_at = coalesce((SELECT max(slot) FROM unnest(slots) AS slot), x.last_due_at),
        last_task_uuid = coalesce(uuids[cardinality(uuids)], x.last_task_uuid)
    WHERE x.name = s.name;
    RETURN jsonb_build_object('fired', true, 'task_uuids', to_jsonb(uuids));
END
$$;
