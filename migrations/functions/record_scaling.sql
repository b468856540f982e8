-- Stores what a tick decided about pools: what their policy remembers, and each change of a target with its reason.
-- request: pools[] {kind, queue, target, state{}, evaluated (whether the policy was asked)}, decisions[] {kind, queue,
-- direction, from_target, to_target, reason, detail, measures{}}. Returns how many decisions were stored.
CREATE OR REPLACE FUNCTION tasker.record_scaling(request jsonb) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n integer;
BEGIN
    INSERT INTO tasker.executor_pools AS p (kind, queue, target, state, evaluated_at)
    SELECT r.kind, r.queue, r.target, r.state, CASE WHEN r.evaluated THEN clock_timestamp() END
    FROM jsonb_to_recordset(nullif(request->'pools', 'null'))
         AS r(kind text, queue text, target integer, state jsonb, evaluated boolean)
    ORDER BY r.kind, r.queue
    ON CONFLICT ON CONSTRAINT executor_pools_pkey DO UPDATE
    SET target = excluded.target, state = excluded.state, evaluated_at = coalesce(excluded.evaluated_at, p.evaluated_at),
        changed_at = CASE WHEN p.target = excluded.target THEN p.changed_at ELSE clock_timestamp() END;

    INSERT INTO tasker.scaling_decisions (kind, queue, direction, from_target, to_target, reason, detail, measures)
    SELECT d.kind, d.queue, d.direction, d.from_target, d.to_target, d.reason, d.detail, coalesce(d.measures, '{}')
    FROM jsonb_to_recordset(nullif(request->'decisions', 'null'))
         AS d(kind text, queue text, direction text, from_target integer, to_target integer, reason text, detail text, measures jsonb);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;
