CREATE OR REPLACE FUNCTION tasker.celery_attach()
RETURNS integer
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    number integer;
BEGIN
    -- A host that vanishes without a word must not keep its messages for the two hours of the kernel's default.
    PERFORM set_config('tcp_keepalives_idle', '30', false),
            set_config('tcp_keepalives_interval', '10', false),
            set_config('tcp_keepalives_count', '3', false),
            -- A reader may be silent for long: its process is busy with a task. That is no reason to end its session.
            set_config('idle_session_timeout', '0', false);
    -- Numbers come round again after 2^31 sessions; one that still lives is passed over.
    LOOP
        number := nextval('tasker.celery_consumer_numbers')::integer;
        EXIT WHEN pg_try_advisory_lock(1413567307, number);
    END LOOP;
    INSERT INTO tasker.celery_consumers (consumer) VALUES (number) ON CONFLICT (consumer) DO NOTHING;
    RETURN number;
END
$$;

COMMENT ON FUNCTION tasker.celery_attach() IS
    'Makes this session a reader of queues; returns its number. What it reads is its own until it acknowledges, releases or ends: the session-level advisory lock taken here goes with the session, so no timeout bounds how long a task may run. 1413567307 is "TASK" in ASCII.';
