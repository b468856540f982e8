-- The engine's clock: transaction time, moved by the setting tasker.clock_offset (an interval), which tests set on their
-- own connections. It rules run_at, timers and the expiry of claims. Heartbeats, loss and facts about the past
-- (started_at, finished_at, audit) use the real clock.
CREATE OR REPLACE FUNCTION tasker.now() RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
SELECT transaction_timestamp()
     + coalesce(nullif(current_setting('tasker.clock_offset', true), ''), '0')::interval
$$;
