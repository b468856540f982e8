-- Everything that handlers need for steps that were just claimed: each task's context once, each parent's result once, each
-- workflow version once unless the caller knows it. Results of a step's parents that would take the answer above
-- max_bytes are left out; its executor reads them page by page (results_paged, tasker.get_parent_results).
CREATE OR REPLACE FUNCTION tasker.describe_claims(
    task_uuids uuid[], positions integer[], map_indexes integer[], known_templates integer[], max_bytes bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    answer jsonb;
    unknown integer[];
BEGIN
    IF cardinality(task_uuids) = 0 THEN
        RETURN '{"steps": [], "tasks": {}, "results": {}, "templates": {}}'::jsonb;
    END IF;
    WITH claimed AS MATERIALIZED (
        SELECT k.no, s.task_uuid, s.step_uuid, s.position, s.map_index, s.fence, s.attempts, s.losses, n.queue, n.depends_on,
               t.named_task_id, t.correlation_id, t.priority, t.tags
        FROM unnest(task_uuids, positions, map_indexes) WITH ORDINALITY AS k(task_uuid, step_position, map_index, no)
        CROSS JOIN LATERAL (SELECT x.* FROM tasker.workflow_steps AS x
                            WHERE x.task_uuid = k.task_uuid AND x.position = k.step_position AND x.map_index = k.map_index
                            OFFSET 0) AS s
        CROSS JOIN LATERAL (SELECT x.* FROM tasker.tasks AS x WHERE x.task_uuid = k.task_uuid OFFSET 0) AS t
        CROSS JOIN LATERAL (SELECT x.* FROM tasker.named_steps AS x
                            WHERE x.named_task_id = t.named_task_id AND x.position = k.step_position OFFSET 0) AS n
    ), needed AS MATERIALIZED (
        SELECT c.no, c.task_uuid, d.parent, p.results
        FROM claimed AS c
        CROSS JOIN unnest(c.depends_on) AS d(parent)
        CROSS JOIN LATERAL (SELECT x.results FROM tasker.workflow_steps AS x
                            WHERE x.task_uuid = c.task_uuid AND x.position = d.parent AND x.map_index = 0 OFFSET 0) AS p
    ), sized AS MATERIALIZED (
        -- The size of a stored value, which for a compressed one is less than its text: the limit guards memory, not a sum.
        SELECT n.no, sum(sum(pg_column_size(n.results))) OVER (ORDER BY n.no) > max_bytes AS paged
        FROM needed AS n GROUP BY n.no
    ), parents AS (
        SELECT DISTINCT ON (n.task_uuid, n.parent) n.task_uuid, n.parent, n.results
        FROM needed AS n JOIN sized AS z ON z.no = n.no AND NOT coalesce(z.paged, false)
        ORDER BY n.task_uuid, n.parent
    )
    SELECT jsonb_build_object(
        'steps', (SELECT jsonb_agg(jsonb_build_object(
                      'task_uuid', c.task_uuid, 'step_uuid', c.step_uuid, 'position', c.position, 'map_index', c.map_index,
                      'fence', c.fence, 'attempt', c.attempts, 'losses', c.losses, 'queue', c.queue,
                      'template', c.named_task_id, 'results_paged', coalesce(z.paged, false)) ORDER BY c.no)
                  FROM claimed AS c LEFT JOIN sized AS z ON z.no = c.no),
        'tasks', (SELECT jsonb_object_agg(c.task_uuid, jsonb_build_object(
                      'context', x.context, 'correlation_id', c.correlation_id, 'priority', c.priority, 'tags', c.tags))
                  FROM (SELECT DISTINCT ON (u.task_uuid) u.* FROM claimed AS u ORDER BY u.task_uuid) AS c
                  CROSS JOIN LATERAL (SELECT y.context FROM tasker.task_contexts AS y
                                      WHERE y.task_uuid = c.task_uuid OFFSET 0) AS x),
        'results', coalesce((SELECT jsonb_object_agg(g.task_uuid, g.results)
                             FROM (SELECT p.task_uuid, jsonb_object_agg(p.parent, p.results) AS results
                                   FROM parents AS p GROUP BY p.task_uuid) AS g), '{}')),
        (SELECT array_agg(DISTINCT c.named_task_id) FROM claimed AS c
         WHERE c.named_task_id <> ALL (coalesce(known_templates, '{}')))
    INTO answer, unknown;

    RETURN answer || jsonb_build_object('templates', CASE WHEN unknown IS NULL THEN '{}'::jsonb ELSE tasker.describe_templates(unknown) END);
END
$$;
