-- Takes steps that are due, from queues and retry timers, and hands over all that their handlers need. One transaction.
--
-- request: executor, call_no, queues[], limit, budget_ms, finished[] (receipts), known_templates[], max_claim_bytes,
--          look_from{} (found_from of an earlier answer: messages before it are not looked at)
-- answer:  call_no, steps[], tasks{}, results{}, templates{}, queue_empty, next_due_seconds, stop_requested,
--          found_from{} (by queue, the first message that was free)
--
-- Every look from the front of a queue walks over all messages that were removed and not vacuumed yet: while somebody
-- holds a snapshot, that is every message since. Executors with much to do look from where they last found something, and
-- from the front about once a second, for messages that were locked then or came late.
--
-- Order of locks: messages SKIP LOCKED, then steps SKIP LOCKED; never a task. Nothing is changed before the receipt is
-- taken: a repeat of this call that finds steps waits there for the original, and then returns what that one claimed. One that
-- finds nothing, since the original still has it all locked, claims nothing: the sweep gives back what the original commits
-- (the heartbeat no longer names the call). When there is nothing to take, nothing is written at all.
CREATE OR REPLACE FUNCTION tasker.claim_steps(request jsonb) RETURNS json
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    me constant uuid := (request->>'executor')::uuid;
    this_call constant bigint := (request->>'call_no')::bigint;
    wanted constant integer := least(greatest(coalesce((request->>'limit')::integer, 1), 1), 1000);
    budget constant double precision := coalesce((request->>'budget_ms')::double precision, 50);
    max_bytes constant bigint := coalesce((request->>'max_claim_bytes')::bigint, 8388608);
    max_rounds constant integer := 10;
    moment constant timestamptz := tasker.now();
    stop boolean;
    served text[];
    n_queues integer;
    first_queue integer;
    cursors bigint[];
    firsts bigint[];
    dry boolean[];
    is_partial boolean := false;
    here text;
    i integer;
    share integer;
    look integer;
    n_taken integer := 0;
    spent double precision := 0;
    alone boolean := false;
    over_budget boolean := false;
    more_timers boolean := false;
    batch record;
    keys record;
    turned record;
    -- What was decided, by step: taken ones, and for every queue the messages that are used up.
    take_rows tid[] := ARRAY[]::tid[]; take_tasks uuid[] := ARRAY[]::uuid[]; take_positions integer[] := ARRAY[]::integer[]; take_maps integer[] := ARRAY[]::integer[]; take_fences integer[] := ARRAY[]::integer[];
    take_states text[] := ARRAY[]::text[];
    timer_tasks uuid[] := ARRAY[]::uuid[]; timer_positions integer[] := ARRAY[]::integer[]; timer_maps integer[] := ARRAY[]::integer[];
    used_queues text[] := ARRAY[]::text[]; used_messages bigint[] := ARRAY[]::bigint[];
    bad_queues text[] := ARRAY[]::text[]; bad_messages bigint[] := ARRAY[]::bigint[]; bad_bodies jsonb[] := ARRAY[]::jsonb[];
    held record;
    claimed record;
    next_due double precision;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM tasker.assert_read_committed('claim_steps');
    END IF;
    stop := tasker.check_executor(me, this_call);
    IF request->'finished' <> '[]' THEN
        PERFORM tasker.delete_finished_receipts(me, tasker.whole_numbers(request->'finished'));
    END IF;
    SELECT coalesce(array_agg(DISTINCT n.queue ORDER BY n.queue), '{}') INTO served
    FROM jsonb_array_elements_text(nullif(request->'queues', 'null')) AS q(name)
    JOIN tasker.namespaces AS n ON n.queue = q.name
    WHERE n.paused_at IS NULL;
    n_queues := cardinality(served);
    IF stop THEN
        n_queues := 0;
    END IF;
    first_queue := (hashint8(this_call) # uuid_hash(me)) & 1048575;
    cursors := array_fill(0::bigint, ARRAY[greatest(n_queues, 1)]);
    firsts := array_fill(NULL::bigint, ARRAY[greatest(n_queues, 1)]);
    dry := array_fill(false, ARRAY[greatest(n_queues, 1)]);
    IF request->'look_from' <> '{}' THEN
        FOR i IN 1 .. n_queues LOOP
            cursors[i] := coalesce((request->'look_from'->>served[i])::bigint - 1, 0);
            is_partial := is_partial OR cursors[i] > 0;
        END LOOP;
    END IF;

    <<rounds>>
    FOR round IN 1 .. max_rounds LOOP
        EXIT WHEN n_queues = 0;
        FOR turn IN 0 .. n_queues - 1 LOOP
            EXIT rounds WHEN n_taken >= wanted OR alone OR over_budget;
            -- In its first round each queue gets its share, so that none starves. Which of them begins is as good as drawn: calls
            -- are numbered across claims and completions, and counting on would let all claims begin with the same queue.
            i := (first_queue + turn) % n_queues + 1;
            CONTINUE WHEN dry[i];
            here := served[i];
            share := ceil((wanted - n_taken)::double precision
                          / CASE WHEN round = 1 THEN n_queues - turn ELSE 1 END)::integer;

            -- Where the front of a queue is all locked (by an open transaction on a wide task), look further, and further.
            look := least(share * 2 ^ (round - 1), greatest(share, 1000))::integer;
            SELECT m.msg_ids, m.messages INTO batch FROM tasker.queue_lock(here, cursors[i], look) AS m;
            dry[i] := coalesce(cardinality(batch.msg_ids), 0) < look;
            IF batch.msg_ids IS NOT NULL THEN
                cursors[i] := batch.msg_ids[cardinality(batch.msg_ids)];
                firsts[i] := coalesce(firsts[i], batch.msg_ids[1]);
            ELSIF round > 1 OR NOT EXISTS (SELECT FROM tasker.step_timers AS w
                                           WHERE w.queue = here AND w.due_at <= moment AND w.kind = 'retry') THEN
                CONTINUE;
            END IF;

            -- Lock the steps that are due, by message or by timer. Whoever holds one of them is working on it: skip it, its
            -- message and timer stay.
            WITH sent AS MATERIALIZED (
                SELECT m.msg_id, m.message, tasker.is_step_message(m.message) AS is_clear
                FROM unnest(batch.msg_ids, batch.messages) AS m(msg_id, message)
            ), due AS (
                SELECT DISTINCT ON (d.task_uuid, d.step_position, d.map_index) d.* FROM (
                    SELECT (m.message->>'task_uuid')::uuid AS task_uuid, (m.message->>'position')::integer AS step_position,
                           coalesce((m.message->>'map_index')::integer, 0) AS map_index, m.msg_id, NULL::timestamptz AS due_at
                    FROM sent AS m WHERE m.is_clear
                    UNION ALL
                    -- Locked as they are found, so that locked ones do not stand in front of the others.
                    (SELECT w.task_uuid, w.position, w.map_index, NULL, w.due_at
                     FROM tasker.step_timers AS w
                     CROSS JOIN LATERAL (SELECT FROM tasker.workflow_steps AS x
                                         WHERE x.task_uuid = w.task_uuid AND x.position = w.position AND x.map_index = w.map_index
                                         FOR NO KEY UPDATE SKIP LOCKED) AS s
                     WHERE w.queue = here AND w.due_at <= moment AND w.kind = 'retry' AND round = 1
                     ORDER BY w.due_at LIMIT share)) AS d
                ORDER BY d.task_uuid, d.step_position, d.map_index, d.msg_id
            ), ordered AS MATERIALIZED (
                SELECT d.* FROM due AS d ORDER BY d.task_uuid, d.step_position, d.map_index
            ), locked AS MATERIALIZED (
                SELECT d.*, s.tid, s.state, s.fence, s.losses FROM ordered AS d
                CROSS JOIN LATERAL (
                    SELECT x.ctid AS tid, x.state, x.fence, x.losses FROM tasker.workflow_steps AS x
                    WHERE x.task_uuid = d.task_uuid AND x.position = d.step_position AND x.map_index = d.map_index
                    FOR NO KEY UPDATE SKIP LOCKED) AS s
            )
            SELECT array_agg(l.task_uuid) AS task_uuids, array_agg(l.step_position) AS positions,
                   array_agg(l.map_index) AS maps, array_agg(l.msg_id) AS msg_ids, array_agg(l.tid) AS tids,
                   array_agg(l.state) AS states, array_agg(l.fence) AS fences, array_agg(l.losses) AS losses,
                   count(l.due_at) >= share AS full_of_timers, count(l.msg_id) AS by_message,
                   (SELECT array_agg(m.msg_id) FROM sent AS m WHERE NOT m.is_clear) AS bad,
                   (SELECT array_agg(m.message) FROM sent AS m WHERE NOT m.is_clear) AS bad_bodies
            INTO keys FROM locked AS l;
            more_timers := more_timers OR keys.full_of_timers;
            IF keys.bad IS NOT NULL THEN
                bad_queues := bad_queues || array_fill(here, ARRAY[cardinality(keys.bad)]);
                bad_messages := bad_messages || keys.bad; bad_bodies := bad_bodies || keys.bad_bodies;
            END IF;

            -- A message whose step does not exist (pruned) is used up; one that was skipped above is not.
            IF keys.by_message < cardinality(batch.msg_ids) THEN
                SELECT used_messages || coalesce(array_agg(m.msg_id), '{}'),
                       used_queues || coalesce(array_agg(here), '{}') INTO used_messages, used_queues
                FROM unnest(batch.msg_ids, batch.messages) AS m(msg_id, message)
                WHERE tasker.is_step_message(m.message) AND NOT EXISTS (
                    SELECT FROM tasker.workflow_steps AS s
                    WHERE s.task_uuid = (m.message->>'task_uuid')::uuid AND s.position = (m.message->>'position')::integer
                      AND s.map_index = coalesce((m.message->>'map_index')::integer, 0));
            END IF;
            CONTINUE WHEN keys.task_uuids IS NULL;

            -- Tasks and timers are read only now, in a statement of its own: it sees what was committed before the locks
            -- on the steps were ours.
            WITH found AS MATERIALIZED (
                SELECT k.*, w.due_at, coalesce(n.expected_ms, budget) AS cost,
                       row_number() OVER (ORDER BY k.msg_id NULLS FIRST, w.due_at) AS no,
                       -- A paused task's retry timer is used up with its message: resume sends and sets anew. But a deadline
                       -- stays: it is the lease of a step that runs elsewhere.
                       t.state = 'paused' AND w.kind = 'retry' AND w.due_at <= moment AS is_parked,
                       t.state <> 'paused' AND (k.msg_id IS NOT NULL AND k.state = 'enqueued'
                           OR w.due_at <= moment AND k.state IN ('enqueued', 'waiting_for_retry')) AS can_run,
                       -- A second message for a step that an earlier turn took: the table does not show that yet.
                       n_taken > 0 AND k.task_uuid = ANY (take_tasks) AND EXISTS (
                           SELECT FROM unnest(take_tasks, take_positions, take_maps) AS y(task_uuid, step_position, map_index)
                           WHERE y.task_uuid = k.task_uuid AND y.step_position = k.step_position
                             AND y.map_index = k.map_index) AS is_taken
                FROM unnest(keys.task_uuids, keys.positions, keys.maps, keys.msg_ids, keys.tids, keys.states, keys.fences, keys.losses)
                     AS k(task_uuid, step_position, map_index, msg_id, tid, state, fence, losses)
                CROSS JOIN LATERAL (SELECT x.state, x.named_task_id FROM tasker.tasks AS x
                                    WHERE x.task_uuid = k.task_uuid OFFSET 0) AS t
                CROSS JOIN LATERAL (SELECT x.expected_ms FROM tasker.named_steps AS x
                                    WHERE x.named_task_id = t.named_task_id AND x.position = k.step_position OFFSET 0) AS n
                LEFT JOIN LATERAL (SELECT x.due_at, x.kind FROM tasker.step_timers AS x
                                   WHERE x.task_uuid = k.task_uuid AND x.position = k.step_position
                                     AND x.map_index = k.map_index OFFSET 0) AS w ON true
            ), candidates AS MATERIALIZED (
                -- A step that has already seen an executor die is claimed alone: it may not take neighbours with it.
                SELECT c.no, c.is_alone, row_number() OVER (ORDER BY c.no) + n_taken AS nth, sum(c.cost) OVER (ORDER BY c.no) + spent AS work
                FROM (SELECT f.no, f.cost, f.losses, row_number() OVER (ORDER BY f.no) + n_taken AS nth,
                             n_taken = 0 AND first_value(f.losses > 0) OVER (ORDER BY f.no) AS is_alone
                      FROM found AS f WHERE f.can_run AND NOT f.is_taken) AS c
                WHERE CASE WHEN c.is_alone THEN c.nth = 1 ELSE c.losses = 0 END
            ), taken AS MATERIALIZED (
                SELECT c.* FROM candidates AS c WHERE c.nth <= wanted AND (c.nth = 1 OR c.work <= budget)
            ), judged AS MATERIALIZED (
                SELECT f.*, f.no = ANY (ARRAY(SELECT c.no FROM taken AS c)) AS goes FROM found AS f ORDER BY f.no
            )
            SELECT array_agg(j.tid) FILTER (WHERE j.goes) AS rows, array_agg(j.task_uuid) FILTER (WHERE j.goes) AS tasks,
                   array_agg(j.step_position) FILTER (WHERE j.goes) AS positions,
                   array_agg(j.map_index) FILTER (WHERE j.goes) AS maps, array_agg(j.fence + 1) FILTER (WHERE j.goes) AS fences,
                   array_agg(j.state) FILTER (WHERE j.goes) AS states,
                   -- A message that starts nothing (a duplicate, a paused task) is used up, the state stays.
                   array_agg(j.msg_id) FILTER (WHERE j.msg_id IS NOT NULL AND (j.goes OR NOT j.can_run)) AS used,
                   array_agg(j.task_uuid) FILTER (WHERE (j.goes AND j.due_at IS NOT NULL) OR j.is_parked) AS timer_tasks,
                   array_agg(j.step_position) FILTER (WHERE (j.goes AND j.due_at IS NOT NULL) OR j.is_parked) AS timer_positions,
                   array_agg(j.map_index) FILTER (WHERE (j.goes AND j.due_at IS NOT NULL) OR j.is_parked) AS timer_maps,
                   (SELECT max(c.work) FROM taken AS c) AS work, (SELECT bool_or(c.is_alone) FROM taken AS c) AS is_alone,
                   (SELECT bool_or(c.nth > 1 AND c.work > budget) FROM candidates AS c WHERE c.nth <= wanted) AS is_over
            INTO turned FROM judged AS j;
            take_rows := take_rows || turned.rows; take_tasks := take_tasks || turned.tasks;
            take_positions := take_positions || turned.positions; take_maps := take_maps || turned.maps;
            take_fences := take_fences || turned.fences; take_states := take_states || turned.states;
            timer_tasks := timer_tasks || turned.timer_tasks; timer_positions := timer_positions || turned.timer_positions;
            timer_maps := timer_maps || turned.timer_maps;
            IF turned.used IS NOT NULL THEN
                used_queues := used_queues || array_fill(here, ARRAY[cardinality(turned.used)]);
                used_messages := used_messages || turned.used;
            END IF;
            n_taken := cardinality(take_tasks);
            spent := coalesce(turned.work, spent);
            alone := alone OR coalesce(turned.is_alone, false);
            over_budget := over_budget OR coalesce(turned.is_over, false);
        END LOOP;
        EXIT WHEN false <> ALL (dry);
    END LOOP;

    IF n_taken > 0 THEN
        INSERT INTO tasker.step_claims (executor, call_no, task_uuids, positions, map_indexes, fences)
        VALUES (me, this_call, take_tasks, take_positions, take_maps, take_fences)
        ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            held := tasker.held_by_receipt(me, this_call);
            claimed := tasker.describe_claims(held.task_uuids, held.positions, held.map_indexes,
                                              tasker.whole_numbers(request->'known_templates')::integer[], max_bytes);
            RETURN json_build_object(
                'steps', claimed.steps, 'tasks', claimed.tasks, 'results', claimed.results, 'templates', claimed.templates,
                'call_no', this_call, 'stop_requested', stop, 'queue_empty', false, 'next_due_seconds', NULL,
                'found_from', '{}'::json);
        END IF;
        UPDATE tasker.workflow_steps AS s
        SET state = 'in_progress', fence = k.fence, attempts = s.attempts + 1, executor = me,
            started_at = clock_timestamp(), start_marked_at = NULL
        FROM unnest(take_rows, take_fences) AS k(tid, fence) WHERE s.ctid = k.tid;
        INSERT INTO tasker.workflow_step_transitions
            (task_uuid, position, map_index, fence, from_state, to_state, executor, reason)
        SELECT k.task_uuid, k.step_position, k.map_index, k.fence, k.state, 'in_progress', me, 'claimed'
        FROM unnest(take_tasks, take_positions, take_maps, take_fences, take_states)
             AS k(task_uuid, step_position, map_index, fence, state);
    END IF;
    IF cardinality(timer_tasks) > 0 THEN
        PERFORM tasker.delete_timers(timer_tasks, timer_positions, timer_maps);
    END IF;
    IF cardinality(used_messages) > 0 THEN
        FOR batch IN SELECT u.queue, array_agg(u.msg_id) AS msg_ids
                     FROM unnest(used_queues, used_messages) AS u(queue, msg_id) GROUP BY u.queue LOOP
            PERFORM tasker.queue_remove(batch.queue, batch.msg_ids);
        END LOOP;
    END IF;
    IF cardinality(bad_messages) > 0 THEN
        PERFORM tasker.bury_messages(bad_queues, bad_messages, bad_bodies, 'not_a_step_message');
    END IF;

    IF n_taken = 0 THEN
        held := tasker.held_by_receipt(me, this_call);
        take_tasks := held.task_uuids; take_positions := held.positions; take_maps := held.map_indexes;
        SELECT extract(epoch FROM min(w.due_at) - moment) INTO next_due
        FROM unnest(served) AS q(name)
        CROSS JOIN LATERAL (SELECT x.due_at FROM tasker.step_timers AS x WHERE x.queue = q.name ORDER BY x.due_at LIMIT 1) AS w;
    END IF;
    claimed := tasker.describe_claims(take_tasks, take_positions, take_maps,
                                      tasker.whole_numbers(request->'known_templates')::integer[], max_bytes);
    RETURN json_build_object(
        'steps', claimed.steps, 'tasks', claimed.tasks, 'results', claimed.results, 'templates', claimed.templates,
        'call_no', this_call, 'stop_requested', stop,
        'next_due_seconds', CASE WHEN next_due > 0 THEN next_due WHEN next_due <= 0 THEN 0 END,
        'found_from', CASE WHEN n_queues > 0 THEN json_object(served, firsts::text[]) ELSE '{}' END,
        'queue_empty', n_queues = 0 OR (false <> ALL (dry) AND NOT over_budget AND NOT alone AND NOT more_timers AND NOT is_partial));
END
$$;
