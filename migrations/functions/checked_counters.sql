-- What an executor says that it counts: the numbers of an object that can be added up. Null where it is no object. Internal.
CREATE OR REPLACE FUNCTION tasker.checked_counters(counters jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
SELECT CASE WHEN jsonb_typeof(counters) = 'object'
            THEN (SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}') FROM jsonb_each(counters) AS e
                  WHERE jsonb_typeof(e.value) = 'number' AND e.value BETWEEN '-1e15' AND '1e15') END
$$;
