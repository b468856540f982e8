-- Everything that handlers need for steps that were just claimed: each task's context once, each parent's result once, each
-- workflow version once unless the caller knows it. Results of a step's parents that would take the answer above
-- max_bytes are left out; its executor reads them page by page (results_paged, tasker.get_parent_results). waited_seconds is
-- how long ago a step in its first attempt could have run: since its last parent ended, or its task was admitted.
-- Internal. JSON as text, not jsonb: it is only sent, and building jsonb first to print it costs five times as much.
CREATE OR REPLACE FUNCTION tasker.describe_claims(
    task_uuids uuid[], positions integer[], map_indexes integer[], known_templates integer[], max_bytes bigint,
    OUT steps json, OUT tasks json, OUT results json, OUT templates json)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    unknown integer[];
BEGIN
    IF cardinality(task_uuids) > 0 THEN
        WITH claimed AS MATERIALIZED (
            SELECT k.no, k.task_uuid, s.step_uuid, k.step_position AS position, k.map_index, s.fence, s.attempts, s.losses, n.queue, n.depends_on,
                   t.named_task_id, t.correlation_id, t.priority, t.tags, t.admitted_at
            FROM unnest(task_uuids, positions, map_indexes) WITH ORDINALITY AS k(task_uuid, step_position, map_index, no)
            CROSS JOIN LATERAL (SELECT x.step_uuid, x.fence, x.attempts, x.losses FROM tasker.workflow_steps AS x
                                WHERE x.task_uuid = k.task_uuid AND x.position = k.step_position AND x.map_index = k.map_index
                                OFFSET 0) AS s
            CROSS JOIN LATERAL (SELECT x.named_task_id, x.correlation_id, x.priority, x.tags, x.admitted_at FROM tasker.tasks AS x
                                WHERE x.task_uuid = k.task_uuid OFFSET 0) AS t
            CROSS JOIN LATERAL (SELECT x.queue, x.depends_on FROM tasker.named_steps AS x
                                WHERE x.named_task_id = t.named_task_id AND x.position = k.step_position OFFSET 0) AS n
        ), needed AS MATERIALIZED (
            SELECT c.no, c.task_uuid, d.parent, p.results, p.finished_at
            FROM claimed AS c
            CROSS JOIN unnest(c.depends_on) AS d(parent)
            CROSS JOIN LATERAL (SELECT x.results, x.finished_at FROM tasker.workflow_steps AS x
                                WHERE x.task_uuid = c.task_uuid AND x.position = d.parent AND x.map_index = 0 OFFSET 0) AS p
        ), paged AS MATERIALIZED (
            -- The size of a stored value, which for a compressed one is less than its text: the limit guards memory, not a sum.
            SELECT z.no FROM (SELECT n.no, sum(sum(pg_column_size(n.results))) OVER (ORDER BY n.no) > max_bytes AS too_much
                              FROM needed AS n GROUP BY n.no) AS z
            WHERE z.too_much
        ), ready AS MATERIALIZED (
            SELECT jsonb_object_agg(r.no, extract(epoch FROM r.at)) AS since
            FROM (SELECT n.no, max(n.finished_at) AS at FROM needed AS n GROUP BY n.no) AS r
        ), parents AS (
            SELECT DISTINCT ON (n.task_uuid, n.parent) n.task_uuid, n.parent, n.results
            FROM needed AS n WHERE n.no <> ALL (ARRAY(SELECT z.no FROM paged AS z))
            ORDER BY n.task_uuid, n.parent
        )
        SELECT (SELECT json_agg(e) FROM (
                    SELECT c.task_uuid, c.step_uuid, c.position, c.map_index, c.fence, c.attempts AS attempt, c.losses, c.queue,
                           c.named_task_id AS template, c.no = ANY (ARRAY(SELECT z.no FROM paged AS z)) AS results_paged,
                           CASE WHEN c.attempts = 1 AND c.losses = 0
                                THEN round(greatest(extract(epoch FROM clock_timestamp()) - coalesce(
                                    ((SELECT y.since FROM ready AS y)->>c.no::text)::numeric, extract(epoch FROM c.admitted_at)), 0), 6)
                                END AS waited_seconds
                    FROM claimed AS c ORDER BY c.no) AS e),
               (SELECT json_object_agg(c.task_uuid, (
                           SELECT row_to_json(e) FROM (SELECT x.context, c.correlation_id, c.priority, c.tags) AS e))
                FROM (SELECT DISTINCT ON (u.task_uuid) u.task_uuid, u.correlation_id, u.priority, u.tags
                      FROM claimed AS u ORDER BY u.task_uuid) AS c
                CROSS JOIN LATERAL (SELECT y.context FROM tasker.task_contexts AS y WHERE y.task_uuid = c.task_uuid OFFSET 0) AS x),
               (SELECT json_object_agg(g.task_uuid, g.results)
                FROM (SELECT p.task_uuid, json_object_agg(p.parent, p.results) AS results
                      FROM parents AS p GROUP BY p.task_uuid) AS g),
               (SELECT array_agg(DISTINCT c.named_task_id) FROM claimed AS c
                WHERE c.named_task_id <> ALL (coalesce(known_templates, '{}')))
        INTO steps, tasks, results, unknown;
        IF unknown IS NOT NULL THEN
            templates := tasker.describe_templates(unknown);
        END IF;
    END IF;
    steps := coalesce(steps, '[]'); tasks := coalesce(tasks, '{}'); results := coalesce(results, '{}');
    templates := coalesce(templates, '{}');
END
$$;
