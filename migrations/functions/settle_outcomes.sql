-- Records what became of running steps, and everything that follows from it: retries, failures, dependents, the end of
-- tasks, and steps continued by the same executor. Internal; complete_steps and process_step_results stand on it.
--
-- outcomes: [{task_uuid, step_uuid, position, map_index, fence, executor, status, results | error | deadline_seconds,
-- may_continue}]. wait: block on the tasks (the caller has set a lock_timeout) instead of answering "busy".
--
-- Order of locks: tasks in uuid order, then their steps in (task, position, map_index) order.
--
-- Here and in its neighbours, rows are looked up by LATERAL subqueries with OFFSET 0 and updated by the ctid of the row that
-- was locked. That leaves the planner one plan, an index probe for each input row, whatever it believes about table sizes:
-- plans are cached for a session, and one that was made on an empty table would scan whole indexes later.
CREATE OR REPLACE FUNCTION tasker.settle_outcomes(
    outcomes jsonb, wait boolean, me uuid, call_no bigint, served text[], continue_limit integer, budget_ms double precision,
    OUT answers jsonb, OUT finished jsonb, OUT queues text[],
    OUT next_tasks uuid[], OUT next_positions integer[], OUT next_maps integer[])
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    o_tasks uuid[]; o_steps uuid[]; o_positions integer[]; o_maps integer[]; o_fences integer[]; o_executors uuid[];
    o_status text[]; o_results jsonb[]; o_errors jsonb[]; o_deadlines double precision[]; o_continue boolean[];
    locked uuid[];
    o record;
    verdict text;
    why text;
    state_now text;
    said jsonb[];
    -- Accepted outcomes, by what they do to their step.
    c_rows tid[] := ARRAY[]::tid[]; c_tasks uuid[] := ARRAY[]::uuid[]; c_positions integer[] := ARRAY[]::integer[]; c_maps integer[] := ARRAY[]::integer[]; c_results jsonb[] := ARRAY[]::jsonb[];
    c_continue boolean[] := ARRAY[]::boolean[];
    r_rows tid[] := ARRAY[]::tid[]; r_tasks uuid[] := ARRAY[]::uuid[]; r_positions integer[] := ARRAY[]::integer[]; r_maps integer[] := ARRAY[]::integer[]; r_errors jsonb[] := ARRAY[]::jsonb[];
    r_due timestamptz[] := ARRAY[]::timestamptz[]; r_queues text[] := ARRAY[]::text[]; r_fences integer[] := ARRAY[]::integer[];
    f_rows tid[] := ARRAY[]::tid[]; f_tasks uuid[] := ARRAY[]::uuid[]; f_positions integer[] := ARRAY[]::integer[]; f_maps integer[] := ARRAY[]::integer[]; f_errors jsonb[] := ARRAY[]::jsonb[];
    d_tasks uuid[] := ARRAY[]::uuid[]; d_positions integer[] := ARRAY[]::integer[]; d_maps integer[] := ARRAY[]::integer[]; d_due timestamptz[] := ARRAY[]::timestamptz[];
    d_fences integer[] := ARRAY[]::integer[];
    -- Steps whose deadline ends with them.
    t_tasks uuid[] := ARRAY[]::uuid[]; t_positions integer[] := ARRAY[]::integer[]; t_maps integer[] := ARRAY[]::integer[];
    a_tasks uuid[] := ARRAY[]::uuid[]; a_positions integer[] := ARRAY[]::integer[]; a_maps integer[] := ARRAY[]::integer[]; a_fences integer[] := ARRAY[]::integer[];
    a_states text[] := ARRAY[]::text[]; a_executors uuid[] := ARRAY[]::uuid[]; a_reasons text[] := ARRAY[]::text[];
    failure jsonb;
    moment constant timestamptz := clock_timestamp();
    delay interval;
BEGIN
    SELECT array_agg(x.task_uuid ORDER BY e.no), array_agg(x.step_uuid ORDER BY e.no),
           array_agg(coalesce(x.position, k.step_position) ORDER BY e.no),
           array_agg(coalesce(x.map_index, k.step_map_index, 0) ORDER BY e.no),
           array_agg(x.fence ORDER BY e.no), array_agg(coalesce(x.executor, me) ORDER BY e.no),
           array_agg(x.status ORDER BY e.no), array_agg(x.results ORDER BY e.no), array_agg(x.error ORDER BY e.no),
           array_agg(x.deadline_seconds ORDER BY e.no), array_agg(coalesce(x.may_continue, false) ORDER BY e.no)
    INTO o_tasks, o_steps, o_positions, o_maps, o_fences, o_executors, o_status, o_results, o_errors, o_deadlines, o_continue
    FROM jsonb_array_elements(outcomes) WITH ORDINALITY AS e(outcome, no)
    CROSS JOIN LATERAL jsonb_to_record(e.outcome) AS x(
        task_uuid uuid, step_uuid uuid, position integer, map_index integer, fence integer, executor uuid, status text,
        results jsonb, error jsonb, deadline_seconds double precision, may_continue boolean)
    LEFT JOIN LATERAL tasker.step_key(x.task_uuid, x.step_uuid) AS k ON x.position IS NULL;

    IF wait THEN
        SELECT array_agg(t.task_uuid) INTO locked
        FROM (SELECT DISTINCT u.task_uuid FROM unnest(o_tasks) AS u(task_uuid) ORDER BY u.task_uuid OFFSET 0) AS k
        CROSS JOIN LATERAL (SELECT x.task_uuid FROM tasker.tasks AS x WHERE x.task_uuid = k.task_uuid FOR NO KEY UPDATE) AS t;
    ELSE
        SELECT array_agg(t.task_uuid) INTO locked
        FROM (SELECT DISTINCT u.task_uuid FROM unnest(o_tasks) AS u(task_uuid) ORDER BY u.task_uuid OFFSET 0) AS k
        CROSS JOIN LATERAL (SELECT x.task_uuid FROM tasker.tasks AS x WHERE x.task_uuid = k.task_uuid
                            FOR NO KEY UPDATE SKIP LOCKED) AS t;
    END IF;
    locked := coalesce(locked, '{}');
    said := array_fill(NULL::jsonb, ARRAY[coalesce(cardinality(o_tasks), 0)]);

    -- Lock the steps, in order, as they are read. Those of tasks that are busy are only looked at.
    FOR o IN
        SELECT k.no, k.task_uuid, k.step_uuid, k.step_position, k.map_index, k.fence, k.executor, k.status,
               s.tid, s.state, s.fence AS now_fence, s.executor AS now_executor, s.attempts,
               n.delegated, n.retryable, n.max_attempts, n.backoff, n.backoff_base_ms, n.backoff_max_ms,
               n.backoff_multiplier, n.jitter_fraction, n.queue, k.is_locked, k.is_second
        FROM (SELECT u.*, u.task_uuid = ANY (locked) AS is_locked,
                     row_number() OVER (PARTITION BY u.task_uuid, u.step_position, u.map_index ORDER BY u.no) > 1 AS is_second
              FROM unnest(o_tasks, o_steps, o_positions, o_maps, o_fences, o_executors, o_status) WITH ORDINALITY
                   AS u(task_uuid, step_uuid, step_position, map_index, fence, executor, status, no)
              ORDER BY u.task_uuid, u.step_position, u.map_index, u.no OFFSET 0) AS k
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
    LOOP
        verdict := 'accepted'; why := NULL; state_now := o.state;
        IF o.max_attempts IS NULL OR (o.is_locked AND o.state IS NULL) THEN
            verdict := 'stale'; why := 'not_found';
        ELSIF NOT o.is_locked THEN
            verdict := 'busy'; why := 'task_locked';
        ELSIF o.is_second THEN
            verdict := 'stale'; why := 'repeated_in_batch';
        ELSIF o.status IS NULL OR o.status NOT IN ('complete', 'error', 'delegated') THEN
            RAISE EXCEPTION 'outcome %: status must be complete, error or delegated', o.no - 1
                USING ERRCODE = 'TK001', COLUMN = format('outcomes[%s].status', o.no - 1);
        ELSIF o.status = 'delegated' AND NOT o.delegated THEN
            RAISE EXCEPTION 'outcome %: the step is not delegated by its workflow', o.no - 1
                USING ERRCODE = 'TK001', COLUMN = format('outcomes[%s].status', o.no - 1);
        ELSIF o.state <> 'in_progress' OR o.fence IS DISTINCT FROM o.now_fence OR o.executor IS DISTINCT FROM o.now_executor THEN
            -- A repeated report is accepted only if this very fence ended in this outcome.
            IF o.fence = o.now_fence AND o.executor = o.now_executor
               AND (o.status = 'complete' AND o.state = 'complete'
                    OR o.status = 'error' AND o.state IN ('waiting_for_retry', 'error')) THEN
                why := 'repeated';
            ELSE
                verdict := 'stale';
                why := CASE WHEN o.state = 'cancelled' THEN 'cancelled'
                            WHEN o.state <> 'in_progress' THEN 'step_is_' || o.state
                            WHEN o.fence IS DISTINCT FROM o.now_fence THEN 'fence_is_old'
                            ELSE 'executor_differs' END;
            END IF;
        ELSIF o.status = 'delegated' THEN
            d_tasks := d_tasks || o.task_uuid; d_positions := d_positions || o.step_position; d_maps := d_maps || o.map_index;
            d_fences := d_fences || o.fence;
            d_due := d_due || (tasker.now() + make_interval(secs => least(greatest(coalesce(o_deadlines[o.no], 0), 0), 2592000)));
        ELSIF o.status = 'complete' THEN
            IF tasker.json_is_deep(o_results[o.no]) THEN
                RAISE EXCEPTION 'outcome %: the results are nested deeper than 200 levels', o.no - 1
                    USING ERRCODE = 'TK001', COLUMN = format('outcomes[%s].results', o.no - 1),
                          HINT = 'nothing was recorded; report an error of the step instead';
            END IF;
            c_rows := c_rows || o.tid; c_tasks := c_tasks || o.task_uuid; c_positions := c_positions || o.step_position; c_maps := c_maps || o.map_index;
            c_results := c_results || ARRAY[o_results[o.no]]; c_continue := c_continue || o_continue[o.no];
            a_tasks := a_tasks || o.task_uuid; a_positions := a_positions || o.step_position; a_maps := a_maps || o.map_index;
            a_fences := a_fences || o.fence; a_states := a_states || 'complete'::text; a_executors := a_executors || o.executor;
            a_reasons := a_reasons || NULL::text;
            state_now := 'complete';
        ELSE
            failure := jsonb_build_object(
                'message', left(coalesce(o_errors[o.no]->>'message', 'no message'), 16384),
                'type', left(coalesce(o_errors[o.no]->>'type', 'Error'), 256), 'attempt', o.attempts,
                'retryable', coalesce((o_errors[o.no]->>'retryable')::boolean, true),
                'timeout', coalesce((o_errors[o.no]->>'timeout')::boolean, false));
            a_tasks := a_tasks || o.task_uuid; a_positions := a_positions || o.step_position; a_maps := a_maps || o.map_index;
            a_fences := a_fences || o.fence; a_executors := a_executors || o.executor;
            a_reasons := a_reasons || (failure->>'type');
            IF (failure->>'retryable')::boolean AND o.retryable AND o.attempts < o.max_attempts THEN
                delay := CASE
                    WHEN o_errors[o.no]->>'retry_after_seconds' IS NULL
                        THEN tasker.step_retry_delay(o.backoff, o.backoff_base_ms, o.backoff_max_ms, o.backoff_multiplier,
                                                     o.jitter_fraction, o.attempts, random())
                    ELSE make_interval(secs => least(greatest((o_errors[o.no]->>'retry_after_seconds')::double precision, 0), 2592000))
                END;
                r_rows := r_rows || o.tid; r_tasks := r_tasks || o.task_uuid; r_positions := r_positions || o.step_position; r_maps := r_maps || o.map_index;
                r_errors := r_errors || failure; r_due := r_due || (tasker.now() + delay); r_queues := r_queues || o.queue;
                r_fences := r_fences || o.fence;
                a_states := a_states || 'waiting_for_retry'::text;
                state_now := 'waiting_for_retry';
            ELSE
                f_rows := f_rows || o.tid; f_tasks := f_tasks || o.task_uuid; f_positions := f_positions || o.step_position; f_maps := f_maps || o.map_index;
                f_errors := f_errors || failure;
                a_states := a_states || 'error'::text;
                state_now := 'error';
            END IF;
        END IF;
        IF verdict = 'accepted' AND why IS NULL AND o.delegated AND o.status <> 'delegated' THEN
            t_tasks := t_tasks || o.task_uuid; t_positions := t_positions || o.step_position; t_maps := t_maps || o.map_index;
        END IF;
        said[o.no] := jsonb_build_object('task_uuid', o.task_uuid, 'step_uuid', o.step_uuid, 'fence', o.fence,
                                          'answer', verdict, 'reason', why, 'state', state_now);
    END LOOP;
    answers := to_jsonb(said);

    IF cardinality(t_tasks) > 0 THEN
        PERFORM tasker.delete_timers(t_tasks, t_positions, t_maps);
    END IF;
    IF cardinality(c_tasks) > 0 THEN
        UPDATE tasker.workflow_steps AS s
        SET state = 'complete', results = k.results, error = NULL, finished_at = moment
        FROM unnest(c_rows, c_results) AS k(tid, results) WHERE s.ctid = k.tid;
    END IF;
    IF cardinality(r_tasks) > 0 THEN
        UPDATE tasker.workflow_steps AS s
        SET state = 'waiting_for_retry', error = k.failure
        FROM unnest(r_rows, r_errors) AS k(tid, failure) WHERE s.ctid = k.tid;
        INSERT INTO tasker.step_timers (task_uuid, position, map_index, kind, queue, due_at, set_at, fence)
        SELECT k.task_uuid, k.step_position, k.map_index, 'retry', k.queue, k.due_at, tasker.now(), k.fence
        FROM unnest(r_tasks, r_positions, r_maps, r_queues, r_due, r_fences)
             AS k(task_uuid, step_position, map_index, queue, due_at, fence);
    END IF;
    IF cardinality(d_tasks) > 0 THEN
        INSERT INTO tasker.step_timers (task_uuid, position, map_index, kind, queue, due_at, set_at, fence)
        SELECT k.task_uuid, k.step_position, k.map_index, 'deadline', 'orchestration_step_results', k.due_at, tasker.now(), k.fence
        FROM unnest(d_tasks, d_positions, d_maps, d_due, d_fences) AS k(task_uuid, step_position, map_index, due_at, fence)
        ON CONFLICT ON CONSTRAINT step_timers_pkey DO NOTHING;
    END IF;
    IF cardinality(a_tasks) > 0 THEN
        INSERT INTO tasker.workflow_step_transitions
            (task_uuid, position, map_index, fence, from_state, to_state, executor, reason)
        SELECT k.task_uuid, k.step_position, k.map_index, k.fence, 'in_progress', k.state, k.executor, k.reason
        FROM unnest(a_tasks, a_positions, a_maps, a_fences, a_states, a_executors, a_reasons)
             AS k(task_uuid, step_position, map_index, fence, state, executor, reason);
    END IF;
    IF cardinality(f_tasks) > 0 THEN
        UPDATE tasker.workflow_steps AS s
        SET state = 'error', error = k.failure, finished_at = moment
        FROM unnest(f_rows, f_errors) AS k(tid, failure) WHERE s.ctid = k.tid;
        PERFORM tasker.bury_steps(f_tasks, f_positions, f_maps, NULL);
    END IF;

    SELECT a.finished, a.queues, a.next_tasks, a.next_positions, a.next_maps
    INTO finished, queues, next_tasks, next_positions, next_maps
    FROM tasker.advance_tasks(c_tasks, c_positions, c_continue, c_tasks || f_tasks,
                              me, call_no, served, continue_limit, budget_ms) AS a;
END
$$;
