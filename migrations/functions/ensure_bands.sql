-- Makes the queues of urgent (priority above 0) and patient (below 0) steps of those namespaces that have none yet: on first
-- use, when the first such task is created. Each is one more queue that claims look at. Internal.
CREATE OR REPLACE FUNCTION tasker.ensure_bands(namespaces text[], high boolean, low boolean) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    n record;
BEGIN
    -- In order of their names, so that two who are first cannot wait for one another.
    FOR n IN SELECT x.name, x.queue, high AND NOT x.has_high AS wants_high, low AND NOT x.has_low AS wants_low
             FROM tasker.namespaces AS x
             WHERE x.name = ANY (namespaces) AND (high AND NOT x.has_high OR low AND NOT x.has_low) ORDER BY x.name LOOP
        IF n.wants_high THEN
            PERFORM tasker.queue_ensure(n.queue || '_high');
        END IF;
        IF n.wants_low THEN
            PERFORM tasker.queue_ensure(n.queue || '_low');
        END IF;
        UPDATE tasker.namespaces AS x SET has_high = x.has_high OR n.wants_high, has_low = x.has_low OR n.wants_low
        WHERE x.name = n.name;
    END LOOP;
END
$$;
