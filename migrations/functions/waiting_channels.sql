-- The channels of processes that wait for a task to finish: empty almost always, and read only when a task did. Internal.
CREATE OR REPLACE FUNCTION tasker.waiting_channels() RETURNS text[]
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN ARRAY(SELECT w.channel FROM tasker.waiters AS w WHERE w.expires_at > clock_timestamp());
END
$$;
