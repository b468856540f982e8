-- The queue of a step's priority band: urgent and patient ones have queues of their own once there were any (ensure_bands).
CREATE OR REPLACE FUNCTION tasker.band_of(queue text, priority integer) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF priority = 0 THEN
        RETURN queue;
    END IF;
    RETURN (SELECT CASE WHEN priority > 0 AND n.has_high THEN n.queue || '_high' WHEN priority < 0 AND n.has_low THEN n.queue || '_low'
                        ELSE n.queue END
            FROM tasker.namespaces AS n WHERE n.queue = band_of.queue);
END
$$;
