-- Closes the open dead letters of steps: what was done about them, by whom and why. Internal.
CREATE OR REPLACE FUNCTION tasker.close_dead_letters(task_uuid uuid, positions integer[], resolution text, actor text, reason text)
RETURNS void
LANGUAGE sql
AS $$
UPDATE tasker.dead_letters AS d
SET resolution = close_dead_letters.resolution, resolved_by = actor, resolved_reason = close_dead_letters.reason,
    resolved_at = clock_timestamp()
WHERE d.task_uuid = close_dead_letters.task_uuid AND d.position = ANY (positions) AND d.kind = 'step' AND d.resolved_at IS NULL
$$;
