-- Records the outcomes of steps, by executors and by messages alike, and lets their tasks go on. Internal.
--
-- outcomes: [{task_uuid, step_uuid, position, map_index, fence, executor, status, results, error, deadline_seconds,
-- may_continue, circuit,
-- events, rejected_events (see publish_step_events)}]. A step that is "parked" did not run, since the circuit it names is open: it waits for that, and
-- gets its attempt back. wait: block on the tasks (the caller has set a lock_timeout) instead of answering "busy".
-- answers: [{task_uuid, step_uuid, fence, answer, reason, state}] and verdicts (their "answer"), in the order of the outcomes.
--
-- Order of locks: tasks in uuid order, then their steps in (task, position, map_index) order.
--
-- Here and in its neighbours, rows are looked up by LATERAL subqueries with OFFSET 0 and updated by the ctid of the row that
-- was locked. That leaves the planner one plan, an index probe for each input row, whatever it believes about table sizes:
-- plans are cached for a session, and one that was made on an empty table would scan whole indexes later. The settings that
-- go with it are those of the function that was called: internal ones have none of their own, each would cost every call.
CREATE OR REPLACE FUNCTION tasker.settle_outcomes(
    outcomes jsonb, wait boolean, me uuid, call_no bigint, served text[], continue_limit integer, budget_ms double precision,
    OUT answers json, OUT verdicts text[], OUT finished jsonb, OUT queues text[],
    OUT next_tasks uuid[], OUT next_positions integer[], OUT next_maps integer[])
LANGUAGE plpgsql
AS $$
DECLARE
    locked uuid[];
    -- What is recorded: of every accepted outcome its step, and what the step becomes.
    seen record;
    ahead record;
BEGIN
    IF wait THEN
        SELECT array_agg(t.task_uuid) INTO locked
        FROM (SELECT DISTINCT (u.outcome->>'task_uuid')::uuid AS task_uuid FROM jsonb_array_elements(outcomes) AS u(outcome)
              ORDER BY task_uuid OFFSET 0) AS k
        CROSS JOIN LATERAL (SELECT x.task_uuid FROM tasker.tasks AS x WHERE x.task_uuid = k.task_uuid FOR NO KEY UPDATE) AS t;
    ELSE
        SELECT array_agg(t.task_uuid) INTO locked
        FROM (SELECT DISTINCT (u.outcome->>'task_uuid')::uuid AS task_uuid FROM jsonb_array_elements(outcomes) AS u(outcome)
              ORDER BY task_uuid OFFSET 0) AS k
        CROSS JOIN LATERAL (SELECT x.task_uuid FROM tasker.tasks AS x WHERE x.task_uuid = k.task_uuid
                            FOR NO KEY UPDATE SKIP LOCKED) AS t;
    END IF;
    locked := coalesce(locked, '{}');

    -- Lock the steps, in order, as they are read, and judge. Those of tasks that are busy are only looked at.
    WITH reported AS MATERIALIZED (
        SELECT x.no, x.task_uuid, x.step_uuid, x.fence, x.status, x.results, x.error, x.deadline_seconds, x.may_continue,
               coalesce(x.position, (SELECT w.step_position FROM tasker.step_key(x.task_uuid, x.step_uuid) AS w)) AS step_position,
               coalesce(x.map_index, CASE WHEN x.position IS NULL THEN
                   (SELECT w.step_map_index FROM tasker.step_key(x.task_uuid, x.step_uuid) AS w) END, 0) AS map_index,
               coalesce(x.executor, me) AS executor, x.task_uuid = ANY (locked) AS is_locked, x.circuit
        FROM ROWS FROM (jsonb_to_recordset(outcomes) AS (
                 task_uuid uuid, step_uuid uuid, position integer, map_index integer, fence integer, executor uuid, status text,
                 results jsonb, error jsonb, deadline_seconds double precision, may_continue boolean, circuit text))
             WITH ORDINALITY AS x(task_uuid, step_uuid, position, map_index, fence, executor, status, results, error,
                                  deadline_seconds, may_continue, circuit, no)
    ), looked AS MATERIALIZED (
        SELECT k.*, s.tid, s.state, s.fence AS now_fence, s.executor AS now_executor, s.attempts,
               n.delegated, n.retryable, n.max_attempts, n.backoff, n.backoff_base_ms, n.backoff_max_ms,
               n.backoff_multiplier, n.jitter_fraction, n.queue, n.publishes_events IS NOT NULL AS publishes
        FROM (SELECT r.*, row_number() OVER (PARTITION BY r.task_uuid, r.step_position, r.map_index ORDER BY r.no) > 1 AS is_second
              FROM reported AS r ORDER BY r.task_uuid, r.step_position, r.map_index, r.no OFFSET 0) AS k
        LEFT JOIN LATERAL (
            SELECT x.ctid AS tid, x.state, x.fence, x.executor, x.attempts
            FROM tasker.workflow_steps AS x
            WHERE k.is_locked AND x.task_uuid = k.task_uuid AND x.position = k.step_position AND x.map_index = k.map_index
            FOR NO KEY UPDATE) AS s ON true
        LEFT JOIN LATERAL (
            SELECT d.* FROM (SELECT y.named_task_id FROM tasker.tasks AS y WHERE y.task_uuid = k.task_uuid OFFSET 0) AS t
            CROSS JOIN LATERAL (SELECT z.* FROM tasker.named_steps AS z
                                WHERE z.named_task_id = t.named_task_id AND z.position = k.step_position OFFSET 0) AS d
            OFFSET 0) AS n ON true
    ), judged AS MATERIALIZED (
        -- why: NULL for an outcome that counts; else why it does not, or why the whole call is refused ("!").
        SELECT l.*, CASE
            WHEN l.max_attempts IS NULL OR (l.is_locked AND l.state IS NULL) THEN 'not_found'
            WHEN NOT l.is_locked THEN 'task_locked'
            WHEN l.is_second THEN 'repeated_in_batch'
            WHEN l.status IS NULL OR l.status NOT IN ('complete', 'error', 'delegated', 'parked') THEN '!status'
            WHEN l.status = 'parked' AND coalesce(length(l.circuit), 0) NOT BETWEEN 1 AND 200 THEN '!circuit'
            WHEN l.status = 'delegated' AND NOT l.delegated THEN '!delegated'
            WHEN l.state = 'in_progress' AND l.fence = l.now_fence AND l.executor = l.now_executor
                THEN CASE WHEN l.status = 'complete' AND tasker.json_is_deep(l.results) THEN '!deep' END
            -- A repeated report is accepted only if this very fence ended in this outcome.
            WHEN l.fence = l.now_fence AND l.executor = l.now_executor
                 AND (l.status = 'complete' AND l.state = 'complete'
                      OR l.status = 'error' AND l.state IN ('waiting_for_retry', 'error')
                      OR l.status = 'parked' AND l.state = 'enqueued') THEN 'repeated'
            WHEN l.state = 'cancelled' THEN 'cancelled'
            WHEN l.state <> 'in_progress' THEN 'step_is_' || l.state
            WHEN l.fence IS DISTINCT FROM l.now_fence THEN 'fence_is_old'
            ELSE 'executor_differs' END AS why
        FROM looked AS l
    ), decided AS MATERIALIZED (
        SELECT j.*, CASE
            WHEN j.why IS NOT NULL THEN NULL
            WHEN j.status = 'parked' THEN 'enqueued'
            WHEN j.status <> 'error' THEN j.status
            WHEN j.retryable AND j.attempts < j.max_attempts AND coalesce((j.error->>'retryable')::boolean, true)
                THEN 'waiting_for_retry'
            ELSE 'error' END AS becomes
        FROM judged AS j
    )
    SELECT array_agg(d.tid) AS rows, array_agg(d.task_uuid) AS tasks, array_agg(d.step_position) AS positions,
           array_agg(d.map_index) AS maps, array_agg(d.fence) AS fences, array_agg(d.executor) AS executors,
           array_agg(d.becomes) AS become, array_agg(CASE d.becomes WHEN 'complete' THEN d.results END) AS results,
           array_agg(CASE WHEN d.status = 'error' AND d.becomes IS NOT NULL THEN jsonb_build_object(
               'message', left(coalesce(d.error->>'message', 'no message'), 16384),
               'type', left(coalesce(d.error->>'type', 'Error'), 256), 'attempt', d.attempts,
               'retryable', coalesce((d.error->>'retryable')::boolean, true),
               'timeout', coalesce((d.error->>'timeout')::boolean, false)) END) AS errors,
           array_agg(d.queue) AS queues,
           array_agg(CASE d.becomes
               WHEN 'delegated' THEN tasker.now() + make_interval(secs => least(greatest(coalesce(d.deadline_seconds, 0), 0), 2592000))
               -- It may have closed meanwhile. Else its closing wakes it, or, should they miss one another, the next tick.
               WHEN 'enqueued' THEN tasker.now() + CASE WHEN EXISTS (
                   SELECT FROM tasker.circuit_breakers AS b WHERE b.name = d.circuit AND b.state <> 'closed')
                   THEN interval '10 minutes' ELSE interval '0' END
               WHEN 'waiting_for_retry' THEN tasker.now() + CASE
                   WHEN d.error->>'retry_after_seconds' IS NULL
                       THEN tasker.step_retry_delay(d.backoff, d.backoff_base_ms, d.backoff_max_ms, d.backoff_multiplier,
                                                    d.jitter_fraction, d.attempts, random())
                   ELSE make_interval(secs => least(greatest((d.error->>'retry_after_seconds')::double precision, 0), 2592000)) END
               END) AS due,
           array_agg(d.delegated AND d.becomes <> 'delegated') AS undelegated,
           bool_or(d.becomes IN ('delegated', 'waiting_for_retry', 'enqueued')) AS timed, bool_or(d.becomes = 'enqueued') AS any_parked,
           array_agg('circuit:' || d.circuit) AS circuits,
           array_agg(d.no ORDER BY d.no) FILTER (WHERE d.publishes AND d.becomes NOT IN ('delegated', 'enqueued')) AS published,
           array_agg(d.task_uuid) FILTER (WHERE d.becomes = 'complete') AS complete_tasks,
           array_agg(d.step_position) FILTER (WHERE d.becomes = 'complete') AS complete_positions,
           array_agg(coalesce(d.may_continue, false)) FILTER (WHERE d.becomes = 'complete') AS complete_may,
           array_agg(d.task_uuid) FILTER (WHERE d.becomes = 'error') AS error_tasks,
           min(d.no) FILTER (WHERE d.why LIKE '!%') AS unusable,
           (array_agg(d.why ORDER BY d.no) FILTER (WHERE d.why LIKE '!%'))[1] AS problem,
           json_agg(d.answer ORDER BY d.no) AS answers, array_agg(d.verdict ORDER BY d.no) AS verdicts
    INTO seen
    FROM (SELECT e.*, v.verdict, a AS answer
          FROM decided AS e
          CROSS JOIN LATERAL (SELECT CASE WHEN e.why = 'task_locked' THEN 'busy' WHEN e.why IS NULL OR e.why = 'repeated' THEN 'accepted'
                                          ELSE 'stale' END AS verdict) AS v
          CROSS JOIN LATERAL (SELECT e.task_uuid, e.step_uuid, e.fence, v.verdict AS answer, e.why AS reason,
                                     CASE WHEN e.becomes <> 'delegated' THEN e.becomes ELSE e.state END AS state) AS a) AS d;
    IF seen.unusable IS NOT NULL THEN
        CASE seen.problem
            WHEN '!status' THEN
                RAISE EXCEPTION 'outcome %: status must be complete, error, delegated or parked', seen.unusable - 1
                    USING ERRCODE = 'TK001', COLUMN = format('outcomes[%s].status', seen.unusable - 1);
            WHEN '!circuit' THEN
                RAISE EXCEPTION 'outcome %: a parked step names the circuit that it waits for, in at most 200 characters', seen.unusable - 1
                    USING ERRCODE = 'TK001', COLUMN = format('outcomes[%s].circuit', seen.unusable - 1);
            WHEN '!delegated' THEN
                RAISE EXCEPTION 'outcome %: the step is not delegated by its workflow', seen.unusable - 1
                    USING ERRCODE = 'TK001', COLUMN = format('outcomes[%s].status', seen.unusable - 1);
            ELSE
                RAISE EXCEPTION 'outcome %: the results are nested deeper than 200 levels', seen.unusable - 1
                    USING ERRCODE = 'TK001', COLUMN = format('outcomes[%s].results', seen.unusable - 1),
                          HINT = 'nothing was recorded; report an error of the step instead';
        END CASE;
    END IF;
    answers := coalesce(seen.answers, '[]'); verdicts := coalesce(seen.verdicts, '{}');

    IF true = ANY (seen.undelegated) THEN
        -- Their deadline ends with them.
        SELECT array_agg(k.task_uuid) AS tasks, array_agg(k.step_position) AS positions, array_agg(k.map_index) AS maps INTO ahead
        FROM unnest(seen.tasks, seen.positions, seen.maps, seen.undelegated) AS k(task_uuid, step_position, map_index, undelegated)
        WHERE k.undelegated;
        PERFORM tasker.delete_timers(ahead.tasks, ahead.positions, ahead.maps);
    END IF;
    IF seen.complete_tasks IS NOT NULL OR seen.error_tasks IS NOT NULL OR 'waiting_for_retry' = ANY (seen.become) OR seen.any_parked THEN
        -- Now, not when the call came: it may have waited for whoever started the step.
        UPDATE tasker.workflow_steps AS w
        SET state = k.becomes, results = k.results, error = CASE WHEN k.becomes = 'enqueued' THEN w.error ELSE k.failure END,
            attempts = CASE WHEN k.becomes = 'enqueued' THEN greatest(w.attempts - 1, 0) ELSE w.attempts END,
            start_marked_at = CASE WHEN k.becomes <> 'enqueued' THEN w.start_marked_at END,
            finished_at = CASE WHEN k.becomes NOT IN ('waiting_for_retry', 'enqueued') THEN clock_timestamp() END
        FROM unnest(seen.rows, seen.become, seen.results, seen.errors) AS k(tid, becomes, results, failure)
        WHERE k.becomes <> 'delegated' AND w.ctid = k.tid;
        INSERT INTO tasker.workflow_step_transitions
            (task_uuid, position, map_index, fence, from_state, to_state, executor, reason)
        SELECT k.task_uuid, k.step_position, k.map_index, k.fence, 'in_progress', k.becomes, k.executor,
               CASE WHEN k.becomes = 'enqueued' THEN 'circuit_open' ELSE k.failure->>'type' END
        FROM unnest(seen.tasks, seen.positions, seen.maps, seen.fences, seen.become, seen.executors, seen.errors)
             AS k(task_uuid, step_position, map_index, fence, becomes, executor, failure)
        WHERE k.becomes <> 'delegated';
    END IF;
    IF seen.timed THEN
        INSERT INTO tasker.step_timers (task_uuid, position, map_index, kind, queue, due_at, set_at, fence, key)
        SELECT k.task_uuid, k.step_position, k.map_index,
               CASE k.becomes WHEN 'delegated' THEN 'deadline' WHEN 'enqueued' THEN 'circuit' ELSE 'retry' END,
               CASE k.becomes WHEN 'delegated' THEN 'orchestration_step_results' ELSE k.queue END, k.due_at, tasker.now(), k.fence,
               CASE k.becomes WHEN 'enqueued' THEN k.circuit END
        FROM unnest(seen.tasks, seen.positions, seen.maps, seen.become, seen.queues, seen.due, seen.fences, seen.circuits)
             AS k(task_uuid, step_position, map_index, becomes, queue, due_at, fence, circuit)
        WHERE k.due_at IS NOT NULL
        ON CONFLICT ON CONSTRAINT step_timers_pkey DO NOTHING;
    END IF;
    IF seen.error_tasks IS NOT NULL THEN
        SELECT array_agg(k.step_position) AS positions, array_agg(k.map_index) AS maps INTO ahead
        FROM unnest(seen.positions, seen.maps, seen.become) AS k(step_position, map_index, becomes) WHERE k.becomes = 'error';
        PERFORM tasker.bury_steps(seen.error_tasks, ahead.positions, ahead.maps, NULL);
    END IF;

    ahead := tasker.advance_tasks(
        coalesce(seen.complete_tasks, '{}'), seen.complete_positions, seen.complete_may, seen.complete_tasks || seen.error_tasks,
        me, call_no, served, continue_limit, budget_ms);
    finished := ahead.finished; queues := ahead.queues;
    next_tasks := ahead.next_tasks; next_positions := ahead.next_positions; next_maps := ahead.next_maps;
    IF seen.published IS NOT NULL THEN
        SELECT array_agg(k.task_uuid) AS tasks, array_agg(k.step_position) AS positions, array_agg(k.map_index) AS maps,
               array_agg(k.said) AS said INTO ahead
        FROM (SELECT o.said, (o.said->>'task_uuid')::uuid AS task_uuid, coalesce((o.said->>'position')::integer, w.step_position) AS step_position,
                     coalesce((o.said->>'map_index')::integer, CASE WHEN o.said->>'position' IS NULL THEN w.step_map_index END, 0) AS map_index
              FROM unnest(seen.published) AS n(no)
              CROSS JOIN LATERAL (SELECT outcomes->(n.no - 1)::integer AS said OFFSET 0) AS o
              LEFT JOIN LATERAL tasker.step_key((o.said->>'task_uuid')::uuid, (o.said->>'step_uuid')::uuid) AS w ON true) AS k;
        PERFORM tasker.publish_step_events(ahead.tasks, ahead.positions, ahead.maps, ahead.said);
    END IF;
    -- At the very end: see tasker.release_limits. A delegated step still runs.
    IF seen.tasks IS NOT NULL AND EXISTS (SELECT FROM tasker.limit_holders) THEN
        SELECT array_agg(k.task_uuid) AS tasks, array_agg(k.step_position) AS positions, array_agg(k.map_index) AS maps INTO ahead
        FROM unnest(seen.tasks, seen.positions, seen.maps, seen.become) AS k(task_uuid, step_position, map_index, becomes)
        WHERE k.becomes <> 'delegated';
        queues := queues || tasker.release_limits(ahead.tasks, ahead.positions, ahead.maps);
    END IF;
END
$$;
