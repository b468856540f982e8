-- The level of each step of a task: 0 for roots, else one more than the highest of its parents. [{position, step, level}].
CREATE OR REPLACE FUNCTION tasker.calculate_dependency_levels(task_uuid uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    step record;
    levels integer[] := ARRAY[]::integer[];
    answer jsonb[] := ARRAY[]::jsonb[];
BEGIN
    -- Positions are a topological order: by the time a step comes, the levels of its parents are known.
    FOR step IN
        SELECT n.position, n.name, n.depends_on FROM tasker.tasks AS t
        JOIN tasker.named_steps AS n ON n.named_task_id = t.named_task_id
        WHERE t.task_uuid = calculate_dependency_levels.task_uuid ORDER BY n.position
    LOOP
        levels := levels || coalesce((SELECT max(levels[d.parent + 1]) + 1 FROM unnest(step.depends_on) AS d(parent)), 0);
        answer := answer || jsonb_build_object('position', step.position, 'step', step.name, 'level', levels[step.position + 1]);
    END LOOP;
    RETURN to_jsonb(answer);
END
$$;
