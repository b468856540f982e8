-- Gives an admission claim back. request: {task_uuid, processor}. Returns {released}: false if the claim is another's.
CREATE OR REPLACE FUNCTION tasker.release_task_claim(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE tasker.tasks AS t SET claimed_by = NULL, claimed_at = NULL, claim_expires_at = NULL
    WHERE t.task_uuid = (request->>'task_uuid')::uuid AND t.claimed_by = request->>'processor';
    RETURN jsonb_build_object('released', FOUND);
END
$$;
