-- How long a step waits before its next attempt: the one backoff formula.
--   fixed        base
--   linear       base * attempt
--   exponential  base * multiplier ^ (attempt - 1)
--   none         nothing
-- capped, then spread by up to +- jitter_fraction (and capped again), so that many steps that failed together do not come
-- back together. "attempt" is the number of the attempt that failed, from 1. "chance" is a random number in [0, 1).
CREATE OR REPLACE FUNCTION tasker.step_retry_delay(
    backoff text, base_ms bigint, max_ms bigint, multiplier double precision, jitter_fraction double precision,
    attempt integer, chance double precision) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
SELECT make_interval(secs => least(
    max_ms,
    least(max_ms, CASE backoff
        WHEN 'fixed' THEN base_ms
        WHEN 'linear' THEN base_ms::double precision * greatest(attempt, 1)
        -- The exponent is bounded: beyond it any multiplier has long met its cap.
        WHEN 'exponential' THEN base_ms * power(multiplier, least(greatest(attempt, 1) - 1, 60))
        ELSE 0 END)
    * (1 + jitter_fraction * (2 * chance - 1))) / 1000.0)
$$;
