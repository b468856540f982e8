-- Whether a JSON value is nested deeper than 200 levels. PostgreSQL goes as deep as its stack allows, the parsers of those
-- who read do not; checked where values come in, since an executor that cannot read one would stumble over it for ever, and
-- so would all that is claimed beside it. A level takes 8 bytes, so that small values need no look.
CREATE OR REPLACE FUNCTION tasker.json_is_deep(value jsonb) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
SELECT coalesce(pg_column_size(value) > 1600 AND jsonb_path_exists(value, 'strict $.**{201}'), false)
$$;
