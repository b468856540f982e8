CREATE OR REPLACE FUNCTION tasker.celery_declare_mailbox(
    p_mailbox text,
    p_consumer integer,
    p_expires_seconds double precision,
    p_message_ttl_seconds double precision,
    OUT messages bigint,
    OUT readers integer
)
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    holder integer;
BEGIN
    -- Mailboxes end with their reader; nothing is lost if a crash of the server forgets the newest.
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT m.consumer INTO holder FROM tasker.celery_mailboxes AS m WHERE m.name = p_mailbox;
    INSERT INTO tasker.celery_mailboxes AS m (name, consumer, expires_seconds, message_ttl_seconds)
    VALUES (p_mailbox, p_consumer, p_expires_seconds, p_message_ttl_seconds)
    ON CONFLICT (name) DO UPDATE
        SET consumer = excluded.consumer,
            expires_seconds = excluded.expires_seconds,
            message_ttl_seconds = excluded.message_ttl_seconds,
            seen_at = clock_timestamp();
    messages := 0;
    readers := 0;
    IF holder IS NOT NULL THEN
        SELECT count(*) INTO messages FROM tasker.celery_mail AS l WHERE l.mailbox = p_mailbox;
        -- Another living reader of one mailbox: two workers of one name. Celery warns of it when told.
        IF holder <> p_consumer THEN
            readers := (NOT pg_try_advisory_xact_lock(1413567307, holder))::integer;
        END IF;
    END IF;
END
$$;

COMMENT ON FUNCTION tasker.celery_declare_mailbox(text, integer, double precision, double precision) IS
    'Makes sure that a mailbox exists and belongs to this reader; returns the mail in it and how many others read it.';
