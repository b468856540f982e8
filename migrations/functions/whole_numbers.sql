-- A JSON array of whole numbers as an array; nothing, or null, is an empty one. By its text, which a call of claim_steps or
-- complete_steps can afford: unpacking it takes an executor run of its own. Internal.
CREATE OR REPLACE FUNCTION tasker.whole_numbers(list jsonb) RETURNS bigint[]
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
SELECT coalesce(CASE WHEN list <> 'null' THEN translate(list::text, '[]', '{}')::bigint[] END, '{}')
$$;
