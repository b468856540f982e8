-- Pauses, resumes or removes a schedule. Slots that pass while it is paused are not made up for; tasks that it has started
-- stay. request: {name, action: pause, resume or remove, next_due_at (of resume: its first slot from now on), by}.
-- Returns {name, changed}.
CREATE OR REPLACE FUNCTION tasker.change_schedule(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    old tasker.schedules;
    due timestamptz;
BEGIN
    PERFORM tasker.assert_read_committed('change_schedule');
    IF coalesce(request->>'action', '') NOT IN ('pause', 'resume', 'remove') THEN
        RAISE EXCEPTION 'action must be pause, resume or remove' USING ERRCODE = 'TK001', COLUMN = 'action';
    END IF;
    SELECT * INTO old FROM tasker.schedules AS s WHERE s.name = request->>'name' FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no schedule %', coalesce(quote_literal(request->>'name'), 'null')
            USING ERRCODE = 'TK004', COLUMN = 'name', HINT = 'look what is there (tasker schedule list)';
    END IF;
    IF request->>'action' = 'remove' THEN
        DELETE FROM tasker.schedules AS s WHERE s.name = old.name;
        RETURN jsonb_build_object('name', old.name, 'changed', true);
    END IF;
    IF (request->>'action' = 'pause') = (old.paused_at IS NOT NULL) THEN
        RETURN jsonb_build_object('name', old.name, 'changed', false);
    END IF;
    IF request->>'action' = 'pause' THEN
        UPDATE tasker.schedules AS s
        SET paused_at = tasker.now(), changed_at = clock_timestamp(), changed_by = request->>'by' WHERE s.name = old.name;
    ELSE
        BEGIN
            due := (request->>'next_due_at')::timestamptz;
        EXCEPTION WHEN data_exception THEN
            due := NULL;
        END;
        IF NOT coalesce(due BETWEEN '1899-12-31Z' AND '9100-01-01Z', false) THEN
            RAISE EXCEPTION 'next_due_at must be a time between the years 1900 and 9100' USING ERRCODE = 'TK001', COLUMN = 'next_due_at';
        END IF;
        due := greatest(due, old.next_due_at);
        UPDATE tasker.schedules AS s
        SET paused_at = NULL, next_due_at = due, look_at = due, failure = NULL, failed_at = NULL,
            changed_at = clock_timestamp(), changed_by = request->>'by'
        WHERE s.name = old.name;
        PERFORM pg_notify('tasker_admission', '');
    END IF;
    RETURN jsonb_build_object('name', old.name, 'changed', true);
END
$$;
