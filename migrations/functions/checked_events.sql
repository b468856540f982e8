-- A list of domain events as a definition has it, or null where there are none. Internal to tasker.register_template.
CREATE OR REPLACE FUNCTION tasker.checked_events(events jsonb, place text) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    wrong record;
BEGIN
    IF events IS NULL OR events IN ('null', '[]') THEN
        RETURN NULL;
    END IF;
    IF jsonb_typeof(events) <> 'array' THEN
        RAISE EXCEPTION '% must be a list of events', place USING ERRCODE = 'TK001', COLUMN = place;
    END IF;
    SELECT e.no - 1 AS n, CASE
               WHEN jsonb_typeof(e.event) <> 'object' OR coalesce(e.event->>'name', '') = '' THEN 'an event has a name'
               WHEN coalesce(e.event->>'condition', 'success') NOT IN ('success', 'failure', 'retryable_failure', 'permanent_failure', 'always')
                   THEN 'condition must be success, failure, retryable_failure, permanent_failure or always'
               WHEN coalesce(e.event->>'delivery', 'durable') NOT IN ('durable', 'fast', 'broadcast')
                   THEN 'delivery must be durable, fast or broadcast'
               WHEN count(*) OVER (PARTITION BY e.event->>'name') > 1 THEN 'another event of the list has this name' END AS problem
    INTO wrong
    FROM jsonb_array_elements(events) WITH ORDINALITY AS e(event, no) ORDER BY problem NULLS LAST, n LIMIT 1;
    IF wrong.problem IS NOT NULL THEN
        RAISE EXCEPTION '%[%]: %', place, wrong.n, wrong.problem USING ERRCODE = 'TK001', COLUMN = format('%s[%s]', place, wrong.n);
    END IF;
    RETURN events;
END
$$;
