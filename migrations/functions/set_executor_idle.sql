-- Says that an executor sleeps, or no longer does: only sleeping ones are woken by NOTIFY. request: executor, idle.
CREATE OR REPLACE FUNCTION tasker.set_executor_idle(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF jsonb_typeof(request->'idle') IS DISTINCT FROM 'boolean' THEN
        RAISE EXCEPTION 'idle must be true or false' USING ERRCODE = 'TK001', COLUMN = 'idle';
    END IF;
    UPDATE tasker.executors AS x SET idle = (request->>'idle')::boolean
    WHERE x.executor = (request->>'executor')::uuid AND x.idle IS DISTINCT FROM (request->>'idle')::boolean;
    RETURN '{}'::jsonb;
END
$$;
