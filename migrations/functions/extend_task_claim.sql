-- Keeps an admission claim. request: {task_uuid, processor, timeout_seconds}. Returns {extended}: false if it expired and
-- went to another, or was given back.
CREATE OR REPLACE FUNCTION tasker.extend_task_claim(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE tasker.tasks AS t
    SET claim_expires_at = tasker.now() + make_interval(secs => greatest(coalesce((request->>'timeout_seconds')::double precision, 60), 1))
    WHERE t.task_uuid = (request->>'task_uuid')::uuid AND t.claimed_by = request->>'processor';
    RETURN jsonb_build_object('extended', FOUND);
END
$$;
