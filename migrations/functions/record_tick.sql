-- Records a finished tick. A series of ticks is unbroken while none is older than three periods when the next one ends.
CREATE OR REPLACE FUNCTION tasker.record_tick(by_whom text, period_seconds double precision) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE tasker.coordinator AS c
SET last_tick_at = clock_timestamp(),
    series_started_at = CASE WHEN c.last_tick_at > clock_timestamp() - make_interval(secs => 3 * period_seconds)
                             THEN c.series_started_at ELSE clock_timestamp() END,
    ticked_by = by_whom,
    ticks = c.ticks + 1
$$;
