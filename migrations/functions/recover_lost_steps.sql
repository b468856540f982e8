-- The sweep. Finds executors that are lost and gives their steps back; bounded, and harmless from many processes at once.
--
-- An executor is lost when two sweeps at least one lease apart saw the same heartbeat: a restart of the database or a pause
-- of everything declares nobody lost who then goes on. Times that lie ahead are those of a clock that was set back. Receipts of lost or absent executors are handled in every sweep, not
-- only when one is marked: a delayed claim may commit later. Receipts of calls that a living executor no longer holds are
-- those of answers that never arrived, and those of an executor that said goodbye were left behind: neither counts as a
-- loss of the step.
--
-- A loss spends "losses", not "attempts". max_losses of them are poison: the step ends in error. A step that may not run
-- twice and was marked as started ends in error too (outcome_unknown).
--
-- Order of locks: receipt, task, step, all SKIP LOCKED; a receipt stays while a step of it could not be looked at, and
-- does not count towards the limit: locked ones must not stand in front of the others in every sweep.
-- The net at the end looks through one page of open tasks for running steps that have neither receipt nor deadline.
--
-- request: limit (receipts), lease_seconds, max_losses, net_page (tasks). Returns lost_executors[], requeued, poisoned,
-- unknown, skipped, netted, queues[], finished_tasks[], notify[].
CREATE OR REPLACE FUNCTION tasker.recover_lost_steps(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    lease constant interval := make_interval(secs => coalesce((request->>'lease_seconds')::double precision, 15));
    max_receipts constant integer := coalesce((request->>'limit')::integer, 100);
    max_losses constant integer := coalesce((request->>'max_losses')::integer, 5);
    net_page constant integer := coalesce((request->>'net_page')::integer, 200);
    lost uuid[];
    receipt record;
    handled integer := 0;
    part record;
    queues text[] := ARRAY[]::text[];
    finished jsonb := '[]'::jsonb;
    requeued integer := 0; poisoned integer := 0; unknown integer := 0; skipped integer := 0; netted integer := 0;
    net record;
BEGIN
    PERFORM tasker.assert_read_committed('recover_lost_steps');

    WITH suspects AS MATERIALIZED (
        SELECT x.executor FROM tasker.executors AS x
        WHERE x.lost_at IS NULL AND x.suspected_heartbeat = x.heartbeat_at AND x.suspected_at <= clock_timestamp() - lease
        ORDER BY x.executor FOR NO KEY UPDATE SKIP LOCKED
    ), marked AS (
        UPDATE tasker.executors AS x SET lost_at = clock_timestamp(), idle = false
        FROM suspects AS s WHERE x.executor = s.executor RETURNING x.executor
    )
    SELECT coalesce(array_agg(m.executor), '{}') INTO lost FROM marked AS m;

    WITH silent AS MATERIALIZED (
        SELECT x.executor FROM tasker.executors AS x
        WHERE x.lost_at IS NULL
          AND (x.suspected_heartbeat IS DISTINCT FROM x.heartbeat_at OR x.suspected_at > clock_timestamp())
          AND x.heartbeat_at NOT BETWEEN clock_timestamp() - lease / 3 AND clock_timestamp()
        ORDER BY x.executor FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE tasker.executors AS x SET suspected_heartbeat = x.heartbeat_at, suspected_at = clock_timestamp()
    FROM silent AS s WHERE x.executor = s.executor;

    FOR receipt IN
        SELECT c.executor, c.call_no, c.task_uuids, c.positions, c.map_indexes, c.fences,
               CASE WHEN e.executor IS NULL THEN 'executor_left' WHEN e.lost_at IS NOT NULL THEN 'executor_lost'
                    ELSE 'answer_lost' END AS why
        FROM tasker.step_claims AS c
        LEFT JOIN tasker.executors AS e ON e.executor = c.executor
        WHERE e.executor IS NULL OR e.lost_at IS NOT NULL OR c.call_no < e.oldest_call_no
           OR (c.call_no < e.next_call_no AND c.call_no <> ALL (e.held_calls))
        FOR UPDATE OF c SKIP LOCKED
    LOOP
        EXIT WHEN handled >= max_receipts;
        SELECT * INTO part FROM tasker.recover_steps(
            receipt.executor, receipt.task_uuids, receipt.positions, receipt.map_indexes, receipt.fences,
            receipt.why, max_losses);
        requeued := requeued + part.requeued; poisoned := poisoned + part.poisoned; unknown := unknown + part.unknown;
        skipped := skipped + part.skipped; queues := queues || part.queues; finished := finished || part.finished;
        IF part.skipped = 0 THEN
            handled := handled + 1;
            DELETE FROM tasker.step_claims AS c WHERE c.executor = receipt.executor AND c.call_no = receipt.call_no;
        END IF;
    END LOOP;

    -- The net. Lock the step first, then read receipts and timer; a page at a time, round and round.
    FOR net IN
        WITH page AS MATERIALIZED (
            SELECT x.task_uuid FROM tasker.tasks AS x
            WHERE x.finished_at IS NULL AND x.admitted_at IS NOT NULL
              AND x.task_uuid > coalesce((SELECT c.net_cursor FROM tasker.coordinator AS c), '00000000-0000-0000-0000-000000000000')
            ORDER BY x.task_uuid LIMIT net_page
        ), turned AS (
            UPDATE tasker.coordinator AS c
            SET net_cursor = (SELECT (array_agg(p.task_uuid ORDER BY p.task_uuid DESC))[1] FROM page AS p HAVING count(*) = net_page)
            WHERE net_page > 0
        )
        SELECT s.executor, s.task_uuid, s.position, s.map_index, s.fence
        FROM page AS p
        CROSS JOIN LATERAL (SELECT y.* FROM tasker.workflow_steps AS y
                            WHERE y.task_uuid = p.task_uuid AND y.state = 'in_progress'
                            ORDER BY y.position, y.map_index FOR NO KEY UPDATE SKIP LOCKED) AS s
    LOOP
        CONTINUE WHEN EXISTS (SELECT FROM tasker.step_timers AS w
                              WHERE w.task_uuid = net.task_uuid AND w.position = net.position AND w.map_index = net.map_index)
                   OR EXISTS (SELECT FROM tasker.step_claims AS c
                              CROSS JOIN LATERAL unnest(c.task_uuids, c.positions, c.map_indexes, c.fences)
                                   AS k(task_uuid, step_position, map_index, fence)
                              WHERE c.executor = net.executor AND k.task_uuid = net.task_uuid
                                AND k.step_position = net.position AND k.map_index = net.map_index AND k.fence = net.fence);
        SELECT * INTO part FROM tasker.recover_steps(
            net.executor, ARRAY[net.task_uuid], ARRAY[net.position], ARRAY[net.map_index], ARRAY[net.fence], 'executor_lost', max_losses);
        netted := netted + 1 - part.skipped;
        requeued := requeued + part.requeued; poisoned := poisoned + part.poisoned; unknown := unknown + part.unknown;
        queues := queues || part.queues; finished := finished || part.finished;
    END LOOP;

    -- Lost executors whose receipts are all gone have nothing left to tell after a day.
    WITH gone AS (
        DELETE FROM tasker.executors AS x
        WHERE x.lost_at < clock_timestamp() - interval '1 day'
          AND NOT EXISTS (SELECT FROM tasker.step_claims AS c WHERE c.executor = x.executor)
        RETURNING x.kind, x.counters
    )
    INSERT INTO tasker.ended_executors (kind, counters) SELECT g.kind, g.counters FROM gone AS g WHERE g.counters <> '{}';

    RETURN jsonb_build_object(
        'lost_executors', to_jsonb(lost), 'requeued', requeued, 'poisoned', poisoned, 'unknown', unknown, 'skipped', skipped,
        'netted', netted, 'finished_tasks', finished,
        'queues', to_jsonb(ARRAY(SELECT DISTINCT q FROM unnest(tasker.queues_with_idle_consumer(queues)) AS q)),
        'notify', CASE WHEN finished = '[]' THEN '[]'::jsonb ELSE to_jsonb(tasker.waiting_channels()) END);
END
$$;
