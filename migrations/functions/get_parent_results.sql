-- Results of a step's parents, a page at a time, for steps whose parents' results did not fit into the claim. "after" is
-- the last position already seen, -1 for none. Returns {results: {position: result}, next_after: position | null}.
CREATE OR REPLACE FUNCTION tasker.get_parent_results(task_uuid uuid, step_uuid uuid, after integer, quantity integer) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
WITH page AS (
    SELECT d.parent, p.results
    FROM tasker.step_key(get_parent_results.task_uuid, get_parent_results.step_uuid) AS k
    JOIN tasker.tasks AS t ON t.task_uuid = get_parent_results.task_uuid
    JOIN tasker.named_steps AS n ON n.named_task_id = t.named_task_id AND n.position = k.step_position
    CROSS JOIN unnest(n.depends_on) AS d(parent)
    JOIN tasker.workflow_steps AS p ON p.task_uuid = t.task_uuid AND p.position = d.parent AND p.map_index = 0
    WHERE d.parent > after ORDER BY d.parent LIMIT least(greatest(quantity, 1), 10000)
)
SELECT jsonb_build_object('results', coalesce((SELECT jsonb_object_agg(p.parent, p.results) FROM page AS p), '{}'),
                          'next_after', (SELECT max(p.parent) FROM page AS p HAVING count(*) = least(greatest(quantity, 1), 10000)))
$$;
