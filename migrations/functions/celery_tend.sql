CREATE OR REPLACE FUNCTION tasker.celery_tend(p_consumer integer DEFAULT NULL)
RETURNS integer
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    candidate integer;
    total integer := 0;
BEGIN
    -- One at a time is enough, and nobody waits for it. No reader has the number 0.
    IF NOT pg_try_advisory_xact_lock(1413567307, 0) THEN
        RETURN 0;
    END IF;

    -- A session that ended, however it ended, has let go of its lock. Our own we would get, so it is left out.
    FOR candidate IN
        SELECT c.consumer FROM tasker.celery_consumers AS c WHERE c.consumer IS DISTINCT FROM p_consumer
    LOOP
        IF pg_try_advisory_xact_lock(1413567307, candidate) THEN
            total := total + tasker.celery_forget(candidate, NULL);
        END IF;
    END LOOP;

    PERFORM tasker.celery_delete(m.name)
       FROM tasker.celery_mailboxes AS m
      WHERE m.seen_at + make_interval(secs => m.expires_seconds) < clock_timestamp()
        AND NOT EXISTS (SELECT 1 FROM tasker.celery_consumers AS c WHERE c.consumer = m.consumer);

    DELETE FROM tasker.celery_mail AS l
     WHERE l.expires_at < clock_timestamp()
        OR NOT EXISTS (SELECT 1 FROM tasker.celery_mailboxes AS m WHERE m.name = l.mailbox);
    RETURN total;
END
$$;

COMMENT ON FUNCTION tasker.celery_tend(integer) IS
    'Housekeeping, called by every reader now and then and by the coordinator''s tick: messages of dead readers return to their queues (how many is returned), mailboxes that nobody reads any more and outdated mail go.';
