-- Makes a schedule, or changes one. Said again with the same definition it does nothing, so that a deploy may say it each time.
-- request: {name, task (a request to create_tasks: namespace, name, version, context, priority, tags, ...), cron or
-- every_seconds, starts_at, time_zone, catch_up, next_due_at (its first slot from now on), by, replace (whether a schedule of
-- this name and another definition gives way; it stays paused if it is, and where its times are the same, slots that are due
-- stay due)}.
-- Returns {name, outcome: new, replaced or unchanged, next_due_at}.
CREATE OR REPLACE FUNCTION tasker.set_schedule(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted tasker.schedules;
    old tasker.schedules;
    problem record;
    outcome text;
    may_replace boolean;
    same_times boolean;
BEGIN
    PERFORM tasker.assert_read_committed('set_schedule');
    IF coalesce(request->>'name', '') !~ '^[a-z][a-z0-9_.-]{0,127}$' THEN
        RAISE EXCEPTION 'schedule % is not a name', coalesce(quote_literal(request->>'name'), 'null')
            USING ERRCODE = 'TK001', COLUMN = 'name',
                  HINT = 'use at most 128 of a-z, 0-9, _, - and the dot, beginning with a letter';
    END IF;
    SELECT * INTO problem FROM tasker.check_task_request(request->'task');
    IF problem.message IS NULL THEN
        SELECT k AS field, 'is not for a schedule to say: each slot has its own' AS message INTO problem
        FROM unnest(ARRAY['identity_key', 'identity_strategy', 'run_at', 'context_checked']) AS k WHERE request->'task' ? k LIMIT 1;
    END IF;
    IF problem.message IS NULL AND jsonb_typeof(request->'task'->'tags') = 'array' AND jsonb_array_length(request->'task'->'tags') > 99 THEN
        SELECT 'tags' AS field, 'must be at most 99: each task has that of its schedule besides' AS message INTO problem;
    END IF;
    IF problem.message IS NOT NULL THEN
        RAISE EXCEPTION '%', concat_ws(' ', problem.field, problem.message)
            USING ERRCODE = 'TK001', COLUMN = coalesce(problem.field, 'task'), HINT = 'no schedule was changed; mend the request';
    END IF;
    BEGIN
        wanted.name := request->>'name';
        wanted.task := request->'task';
        wanted.cron := request->>'cron';
        wanted.every_seconds := (request->>'every_seconds')::integer;
        wanted.starts_at := (request->>'starts_at')::timestamptz;
        wanted.time_zone := coalesce(request->>'time_zone', 'UTC');
        wanted.catch_up := coalesce(request->>'catch_up', 'last');
        wanted.next_due_at := (request->>'next_due_at')::timestamptz;
        may_replace := coalesce((request->>'replace')::boolean, false);
    EXCEPTION WHEN data_exception THEN
        RAISE EXCEPTION 'the request has a value of the wrong form: %', SQLERRM USING ERRCODE = 'TK001', COLUMN = 'request';
    END;
    BEGIN
        PERFORM now() AT TIME ZONE wanted.time_zone;
    EXCEPTION WHEN data_exception THEN
        RAISE EXCEPTION 'time_zone % is unknown', quote_literal(wanted.time_zone)
            USING ERRCODE = 'TK001', COLUMN = 'time_zone', HINT = 'write it like Europe/Berlin';
    END;
    SELECT f.field, f.message INTO problem FROM (VALUES
        ('cron', 'or every_seconds must be given, and not both', (wanted.cron IS NULL) = (wanted.every_seconds IS NULL)),
        ('cron', 'must be a string of at most 256 characters',
         wanted.cron IS NOT NULL AND (jsonb_typeof(request->'cron') <> 'string' OR length(wanted.cron) > 256)),
        ('by', 'must be a string of at most 1024 characters',
         request->>'by' IS NOT NULL AND (jsonb_typeof(request->'by') <> 'string' OR length(request->>'by') > 1024)),
        ('every_seconds', 'must be 1 or more', wanted.every_seconds < 1),
        ('catch_up', 'must be last, all or none', wanted.catch_up NOT IN ('last', 'all', 'none')),
        -- What lies far outside cannot be read in most languages, and nobody could look at any schedule any more.
        ('starts_at', 'must be a time between the years 1900 and 9000',
         NOT wanted.starts_at BETWEEN '1899-12-31Z' AND '9000-01-02Z'),
        ('next_due_at', 'must be a time between the years 1900 and 9100',
         NOT coalesce(wanted.next_due_at BETWEEN '1899-12-31Z' AND '9100-01-01Z', false))) AS f(field, message, is_wrong)
    WHERE f.is_wrong LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% %', problem.field, problem.message
            USING ERRCODE = 'TK001', COLUMN = problem.field, HINT = 'no schedule was changed; mend the request';
    END IF;
    IF NOT EXISTS (SELECT FROM tasker.named_tasks AS n
                   WHERE n.namespace = wanted.task->>'namespace' AND n.name = wanted.task->>'name'
                     AND (wanted.task->>'version' IS NULL OR n.version = wanted.task->>'version')) THEN
        RAISE EXCEPTION 'no workflow % is registered', format('%s/%s', wanted.task->>'namespace', wanted.task->>'name')
                || coalesce(' of version ' || (wanted.task->>'version'), '')
            USING ERRCODE = 'TK002', COLUMN = 'task',
                  HINT = 'register it first (tasker template register FILE), or look what is there (tasker template list)';
    END IF;

    LOOP
        INSERT INTO tasker.schedules (name, task, cron, every_seconds, starts_at, time_zone, catch_up, next_due_at, look_at,
                                      created_by, changed_by)
        VALUES (wanted.name, wanted.task, wanted.cron, wanted.every_seconds, wanted.starts_at, wanted.time_zone,
                wanted.catch_up, wanted.next_due_at, wanted.next_due_at, request->>'by', request->>'by')
        ON CONFLICT (name) DO NOTHING;
        IF FOUND THEN
            outcome := 'new';
            EXIT;
        END IF;
        SELECT * INTO old FROM tasker.schedules AS s WHERE s.name = wanted.name FOR NO KEY UPDATE;
        CONTINUE WHEN NOT FOUND;  -- removed just now
        IF (old.task, old.cron, old.every_seconds, old.starts_at, old.time_zone, old.catch_up)
           IS NOT DISTINCT FROM (wanted.task, wanted.cron, wanted.every_seconds, wanted.starts_at,
                                 wanted.time_zone, wanted.catch_up) THEN
            RETURN jsonb_build_object('name', old.name, 'outcome', 'unchanged', 'next_due_at', old.next_due_at);
        END IF;
        IF NOT may_replace THEN
            RAISE EXCEPTION 'there is a schedule %, and it is another one', quote_literal(old.name)
                USING ERRCODE = 'TK001', COLUMN = 'name', HINT = 'ask for it to be replaced, or choose another name';
        END IF;
        -- What a deploy changes about the tasks does not undo what was missed while it went on.
        same_times := (old.cron, old.every_seconds, old.starts_at, old.time_zone)
                      IS NOT DISTINCT FROM (wanted.cron, wanted.every_seconds, wanted.starts_at, wanted.time_zone);
        IF same_times THEN
            wanted.next_due_at := old.next_due_at;
        END IF;
        UPDATE tasker.schedules AS s
        SET task = wanted.task, cron = wanted.cron, every_seconds = wanted.every_seconds, starts_at = wanted.starts_at,
            time_zone = wanted.time_zone, catch_up = wanted.catch_up,
            next_due_at = wanted.next_due_at, look_at = wanted.next_due_at, failure = NULL, failed_at = NULL,
            -- A clock that was set back must not make a slot of the past look like one that is fired.
            last_due_at = CASE WHEN s.last_due_at < wanted.next_due_at THEN s.last_due_at END,
            changed_at = clock_timestamp(), changed_by = request->>'by'
        WHERE s.name = wanted.name;
        outcome := 'replaced';
        EXIT;
    END LOOP;
    -- Whoever admits tasks also fires schedules, and knows only the slots that it has heard of.
    PERFORM pg_notify('tasker_admission', '');
    RETURN jsonb_build_object('name', wanted.name, 'outcome', outcome, 'next_due_at', wanted.next_due_at);
END
$$;
