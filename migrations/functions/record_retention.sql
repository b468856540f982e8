-- Records how far the ticks have pruned.
CREATE OR REPLACE FUNCTION tasker.record_retention(progress jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE tasker.coordinator AS c SET retention = progress WHERE c.retention IS DISTINCT FROM progress;
END
$$;
