-- Closes dead letters of messages without sending them again. Letters of steps are not dismissed: a step in error is retried,
-- resolved, or its task is. One batch: call again with next_after and until.
-- request: {ids[] | filter{} (see match_dead_letters), after, until, limit, by, reason}.
-- Returns {letters: [{id, kind, task_uuid, outcome, reason}], dismissed, next_after, until}; outcome is dismissed or refused,
-- with the reason: not_found, already_<resolution>, is_a_step.
CREATE OR REPLACE FUNCTION tasker.dismiss_dead_letters(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    found_ones record;
    done bigint[];
BEGIN
    PERFORM tasker.assert_read_committed('dismiss_dead_letters');
    found_ones := tasker.match_dead_letters(request, 'message');
    SELECT coalesce(array_agg(d.id), '{}') INTO done
    FROM (SELECT u.id FROM unnest(found_ones.ids) AS u(id) ORDER BY u.id OFFSET 0) AS k
    CROSS JOIN LATERAL (SELECT x.id FROM tasker.dead_letters AS x
                        WHERE x.id = k.id AND x.kind = 'message' AND x.resolved_at IS NULL FOR NO KEY UPDATE) AS d;
    UPDATE tasker.dead_letters AS d
    SET resolution = 'dismissed', resolved_by = request->>'by', resolved_reason = request->>'reason', resolved_at = clock_timestamp()
    WHERE d.id = ANY (done);
    RETURN jsonb_build_object(
        'letters', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                        'id', k.id, 'kind', d.kind, 'task_uuid', d.task_uuid,
                        'outcome', CASE WHEN k.id = ANY (done) THEN 'dismissed' ELSE 'refused' END,
                        'reason', CASE WHEN k.id = ANY (done) THEN NULL WHEN d.id IS NULL THEN 'not_found' WHEN d.kind = 'step' THEN 'is_a_step'
                                       ELSE 'already_' || d.resolution END) ORDER BY k.id), '[]')
                    FROM unnest(found_ones.ids) AS k(id) LEFT JOIN tasker.dead_letters AS d ON d.id = k.id
                    -- What somebody settled after a filter had found it is no longer what was asked for.
                    WHERE found_ones.until IS NULL OR d.resolution IS NULL OR k.id = ANY (done)),
        'dismissed', cardinality(done), 'next_after', found_ones.next_after, 'until', found_ones.until);
END
$$;
