-- Says that an executor sleeps, or no longer does: only sleeping ones are woken by NOTIFY. request: executor, idle.
CREATE OR REPLACE FUNCTION tasker.set_executor_idle(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE tasker.executors AS x SET idle = (request->>'idle')::boolean
    WHERE x.executor = (request->>'executor')::uuid AND x.idle IS DISTINCT FROM (request->>'idle')::boolean;
    RETURN '{}'::jsonb;
END
$$;
