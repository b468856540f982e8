-- Settles the step of a dead letter by hand: with results it satisfies its dependents, and the task goes on in this
-- transaction. Letters of messages have nothing to resolve: they are retried or dismissed.
-- request: {id, results, by, reason}. Returns {task_uuid, state (of the step), task_state, queues[], notify[]}.
CREATE OR REPLACE FUNCTION tasker.resolve_dead_letter(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    d record;
BEGIN
    SELECT x.* INTO d FROM tasker.dead_letters AS x
    WHERE x.id = CASE WHEN request->>'id' ~ '^[0-9]{1,18}$' THEN (request->>'id')::bigint END;
    IF d.id IS NULL THEN
        RAISE EXCEPTION 'there is no dead letter %', coalesce(request->>'id', 'null') USING ERRCODE = 'TK004', COLUMN = 'id';
    END IF;
    IF d.kind <> 'step' THEN
        RAISE EXCEPTION 'dead letter % is a message, which has no results', d.id
            USING ERRCODE = 'TK005', COLUMN = 'id', HINT = 'retry it, with a mended message if need be, or dismiss it';
    END IF;
    PERFORM tasker.lock_task(d.task_uuid);
    -- Under the lock of its task: whoever had it before may have settled the letter.
    SELECT x.* INTO d FROM tasker.dead_letters AS x WHERE x.id = d.id;
    IF d.resolved_at IS NOT NULL THEN
        RAISE EXCEPTION 'dead letter % is closed: %', d.id, concat_ws(' by ', d.resolution, d.resolved_by)
            USING ERRCODE = 'TK005', COLUMN = 'id', HINT = 'a step that failed again has another letter';
    END IF;
    RETURN tasker.resolve_step(jsonb_build_object('task_uuid', d.task_uuid, 'position', d.position, 'map_index', d.map_index,
                                                  'results', request->'results', 'by', request->>'by', 'reason', request->>'reason'))
           || jsonb_build_object('task_uuid', d.task_uuid);
END
$$;
