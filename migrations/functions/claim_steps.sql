-- Takes steps that are due, from queues and retry timers, and hands over all that their handlers need. One transaction.
--
-- request: executor, call_no, queues[], limit, budget_ms, finished[] (receipts), known_templates[], max_claim_bytes,
--          look_from{} (found_from of an earlier answer: messages before it are not looked at)
-- answer:  call_no, steps[], tasks{}, results{}, templates{}, queue_empty, next_due_seconds, stop_requested,
--          found_from{} (by queue, the first message that was free), circuits{} (those that are not closed or have
--          failures), probes{} (step_uuid: the circuit that it may try)
--
-- Urgent and patient steps have queues of their own beside the one that is served; each call begins with one of them as
-- good as drawn, by weights 6:3:1, and gives each that share, so that none starves. Steps that a circuit or a limit keeps
-- back are parked: still "enqueued", with a timer instead of a message (tasker.judge_guarded).
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
    bases text[];
    weights double precision[];
    limited boolean[];
    n_queues integer;
    first_queue integer;
    turns integer[];
    weight double precision;
    weight_left double precision;
    circuits record;
    ledger jsonb := jsonb '{"rooms": {}, "rates": {}, "circuits": {}, "probes": {}}';
    judged record;
    verdicts text[];
    is_left boolean := false;
    pass_on integer := 0; pass_all integer := 0;
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
    hold_rows jsonb := jsonb '[]'; park_rows jsonb := jsonb '[]';
    park_tasks uuid[] := ARRAY[]::uuid[]; park_positions integer[] := ARRAY[]::integer[]; park_maps integer[] := ARRAY[]::integer[];
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
    SELECT coalesce(array_agg(b.queue ORDER BY b.queue), '{}'), array_agg(n.queue ORDER BY b.queue),
           array_agg(b.weight / (3 + CASE WHEN n.has_high THEN 6 ELSE 0 END + CASE WHEN n.has_low THEN 1 ELSE 0 END) ORDER BY b.queue),
           array_agg(n.max_concurrency IS NOT NULL OR n.rate_count IS NOT NULL ORDER BY b.queue), count(DISTINCT n.queue)
    INTO served, bases, weights, limited, weight
    FROM (SELECT DISTINCT q.name FROM jsonb_array_elements_text(nullif(request->'queues', 'null')) AS q(name)) AS q
    JOIN tasker.namespaces AS n ON n.queue = q.name
    CROSS JOIN LATERAL (VALUES (n.queue || '_high', 6.0::double precision, n.has_high), (n.queue, 3.0, true),
                               (n.queue || '_low', 1.0, n.has_low)) AS b(queue, weight, is_there)
    WHERE n.paused_at IS NULL AND b.is_there;
    n_queues := cardinality(served);
    IF stop THEN
        n_queues := 0;
    END IF;
    -- Which queue begins is as good as drawn: calls are numbered across claims and completions, and counting on would let all
    -- claims begin with the same one.
    first_queue := (hashint8(this_call) # uuid_hash(me)) & 1048575;
    IF n_queues > 0 AND 1 <> ANY (weights) THEN
        -- Drawn by weight (Efraimidis and Spirakis, "Weighted random sampling", 2006).
        SELECT array_agg(d.no ORDER BY -ln(((hashint8(this_call * 64 + d.no) # uuid_hash(me)) & 1048575) / 1048576.0 + 5e-7) / d.weight)
        INTO turns FROM unnest(weights) WITH ORDINALITY AS d(weight, no);
    END IF;
    SELECT coalesce(array_agg(c.name) FILTER (WHERE c.state <> 'closed'), '{}') AS not_closed,
           coalesce(array_agg(c.name) FILTER (WHERE c.state <> 'closed' AND NOT c.forced AND coalesce(c.retry_at, c.probe_until) <= moment),
                    '{}') AS to_try,
           coalesce(bool_or(c.state <> 'closed' OR c.failures > 0), false) AS any_to_tell
    INTO circuits FROM tasker.circuit_breakers AS c;
    IF n_queues > 0 AND cardinality(circuits.to_try) > 0 THEN
        PERFORM tasker.offer_probes(circuits.to_try, bases);
    END IF;
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
        weight_left := weight;
        FOR turn IN 0 .. n_queues - 1 LOOP
            EXIT rounds WHEN n_taken >= wanted OR alone OR over_budget;
            -- In its first round each queue gets its share, so that none starves.
            i := coalesce(turns[turn + 1], (first_queue + turn) % n_queues + 1);
            share := CASE WHEN round = 1 THEN ceil((wanted - n_taken) * least(weights[i] / weight_left, 1) - 1e-9)
                          ELSE wanted - n_taken END::integer;
            weight_left := weight_left - weights[i];
            CONTINUE WHEN dry[i];
            here := served[i];

            -- Where the front of a queue is all locked (by an open transaction on a wide task), look further, and further.
            look := least(share * 2 ^ (round - 1), greatest(share, 1000))::integer;
            SELECT m.msg_ids, m.messages INTO batch FROM tasker.queue_lock(here, cursors[i], look) AS m;
            dry[i] := coalesce(cardinality(batch.msg_ids), 0) < look;
            IF batch.msg_ids IS NOT NULL THEN
                cursors[i] := batch.msg_ids[cardinality(batch.msg_ids)];
                firsts[i] := coalesce(firsts[i], batch.msg_ids[1]);
            ELSIF round > 1 OR NOT EXISTS (SELECT FROM tasker.step_timers AS w
                                           WHERE w.queue = here AND w.due_at <= moment AND w.kind <> 'deadline') THEN
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
                     WHERE w.queue = here AND w.due_at <= moment AND w.kind <> 'deadline' AND round = 1
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
            -- on the steps were ours. Where circuits or limits guard one of the steps, it is asked again with their verdicts.
            verdicts := NULL;
            LOOP
            WITH found AS MATERIALIZED (
                SELECT k.*, w.due_at, coalesce(n.expected_ms, budget) AS cost,
                       row_number() OVER (ORDER BY k.msg_id NULLS FIRST, w.due_at) AS no,
                       -- A paused task's retry timer is used up with its message: resume sends and sets anew. But a deadline
                       -- stays: it is the lease of a step that runs elsewhere.
                       t.state = 'paused' AND w.kind <> 'deadline' AND w.due_at <= moment AS is_dropped,
                       t.state <> 'paused' AND (k.msg_id IS NOT NULL AND k.state = 'enqueued'
                           OR w.due_at <= moment AND k.state IN ('enqueued', 'waiting_for_retry')) AS is_due,
                       t.concurrency_key IS NOT NULL OR limited[i] OR n.system_dependency = ANY (circuits.not_closed) AS is_guarded,
                       -- A second message for a step that an earlier turn took or parked: the table does not show that yet.
                       n_taken > 0 AND k.task_uuid = ANY (take_tasks) AND EXISTS (
                           SELECT FROM unnest(take_tasks, take_positions, take_maps) AS y(task_uuid, step_position, map_index)
                           WHERE y.task_uuid = k.task_uuid AND y.step_position = k.step_position
                             AND y.map_index = k.map_index)
                       OR park_tasks <> '{}' AND k.task_uuid = ANY (park_tasks) AND EXISTS (
                           SELECT FROM unnest(park_tasks, park_positions, park_maps) AS y(task_uuid, step_position, map_index)
                           WHERE y.task_uuid = k.task_uuid AND y.step_position = k.step_position
                             AND y.map_index = k.map_index) AS is_taken
                FROM unnest(keys.task_uuids, keys.positions, keys.maps, keys.msg_ids, keys.tids, keys.states, keys.fences, keys.losses, verdicts)
                     WITH ORDINALITY AS k(task_uuid, step_position, map_index, msg_id, tid, state, fence, losses, verdict, ord)
                CROSS JOIN LATERAL (SELECT x.state, x.named_task_id, x.concurrency_key FROM tasker.tasks AS x
                                    WHERE x.task_uuid = k.task_uuid OFFSET 0) AS t
                CROSS JOIN LATERAL (SELECT x.expected_ms, x.system_dependency FROM tasker.named_steps AS x
                                    WHERE x.named_task_id = t.named_task_id AND x.position = k.step_position OFFSET 0) AS n
                LEFT JOIN LATERAL (SELECT x.due_at, x.kind FROM tasker.step_timers AS x
                                   WHERE x.task_uuid = k.task_uuid AND x.position = k.step_position
                                     AND x.map_index = k.map_index OFFSET 0) AS w ON true
            ), candidates AS MATERIALIZED (
                -- A step that has already seen an executor die is claimed alone: it may not take neighbours with it.
                SELECT c.no, c.is_alone, row_number() OVER (ORDER BY c.no) + n_taken AS nth, sum(c.cost) OVER (ORDER BY c.no) + spent AS work
                FROM (SELECT f.no, f.cost, f.losses, row_number() OVER (ORDER BY f.no) + n_taken AS nth,
                             n_taken = 0 AND first_value(f.losses > 0) OVER (ORDER BY f.no) AS is_alone
                      FROM found AS f
                      WHERE CASE WHEN verdicts IS NULL THEN f.is_due AND NOT f.is_taken ELSE f.verdict = 'go' END) AS c
                WHERE CASE WHEN c.is_alone THEN c.nth = 1 ELSE c.losses = 0 END
            ), taken AS MATERIALIZED (
                -- What was judged and may go goes: it has been given its place, its moment, its try.
                SELECT c.* FROM candidates AS c WHERE verdicts IS NOT NULL OR c.nth <= wanted AND (c.nth = 1 OR c.work <= budget)
            ), judged AS MATERIALIZED (
                SELECT f.*, f.no = ANY (ARRAY(SELECT c.no FROM taken AS c)) AS goes,
                       f.verdict = 'park' AND f.is_due AND NOT f.is_taken AS parks
                FROM found AS f ORDER BY f.no
            )
            SELECT array_agg(j.tid) FILTER (WHERE j.goes) AS rows, array_agg(j.task_uuid) FILTER (WHERE j.goes) AS tasks,
                   array_agg(j.step_position) FILTER (WHERE j.goes) AS positions,
                   array_agg(j.map_index) FILTER (WHERE j.goes) AS maps, array_agg(j.fence + 1) FILTER (WHERE j.goes) AS fences,
                   array_agg(j.state) FILTER (WHERE j.goes) AS states,
                   array_agg(j.ord) FILTER (WHERE j.goes) AS go_ords, array_agg(j.ord) FILTER (WHERE j.parks) AS park_ords,
                   array_agg(j.ord) FILTER (WHERE j.is_taken) AS taken_ords,
                   -- A message that starts nothing (a duplicate, a paused task, a parked step) is used up, the state stays.
                   array_agg(j.msg_id) FILTER (WHERE j.msg_id IS NOT NULL AND (j.goes OR NOT j.is_due OR j.parks)) AS used,
                   array_agg(j.task_uuid) FILTER (WHERE (j.goes AND j.due_at IS NOT NULL) OR j.is_dropped) AS timer_tasks,
                   array_agg(j.step_position) FILTER (WHERE (j.goes AND j.due_at IS NOT NULL) OR j.is_dropped) AS timer_positions,
                   array_agg(j.map_index) FILTER (WHERE (j.goes AND j.due_at IS NOT NULL) OR j.is_dropped) AS timer_maps,
                   bool_or(j.is_guarded AND j.is_due) AS any_guarded, bool_or(j.verdict = 'leave') AS any_left,
                   (SELECT max(c.work) FROM taken AS c) AS work, (SELECT bool_or(c.is_alone) FROM taken AS c) AS is_alone,
                   (SELECT bool_or(c.nth > 1 AND c.work > budget) FROM candidates AS c WHERE c.nth <= wanted) AS is_over
            INTO turned FROM judged AS j;
            EXIT WHEN verdicts IS NOT NULL OR turned.any_guarded IS NOT TRUE;
            judged := tasker.judge_guarded(keys.task_uuids, keys.positions, keys.maps, keys.msg_ids, keys.states, keys.losses, bases[i],
                                           coalesce(turned.taken_ords, '{}'), wanted, n_taken, spent, budget, me::text, ledger);
            ledger := judged.ledger; verdicts := judged.verdicts;
            END LOOP;
            take_rows := take_rows || turned.rows; take_tasks := take_tasks || turned.tasks;
            take_positions := take_positions || turned.positions; take_maps := take_maps || turned.maps;
            take_fences := take_fences || turned.fences; take_states := take_states || turned.states;
            timer_tasks := timer_tasks || turned.timer_tasks; timer_positions := timer_positions || turned.timer_positions;
            timer_maps := timer_maps || turned.timer_maps;
            IF verdicts IS NOT NULL THEN
                is_left := is_left OR coalesce(turned.any_left, false);
                hold_rows := hold_rows || coalesce((
                    SELECT jsonb_agg(jsonb_build_object('task_uuid', keys.task_uuids[g.ord], 'position', keys.positions[g.ord],
                                                        'map_index', keys.maps[g.ord], 'key', l.key, 'fence', keys.fences[g.ord] + 1))
                    FROM unnest(turned.go_ords) AS g(ord)
                    CROSS JOIN LATERAL (VALUES (judged.ns_keys[g.ord]), (judged.own_keys[g.ord])) AS l(key) WHERE l.key IS NOT NULL), '[]');
                park_rows := park_rows || coalesce((
                    SELECT jsonb_agg(jsonb_build_object(
                        'task_uuid', keys.task_uuids[g.ord], 'position', keys.positions[g.ord], 'map_index', keys.maps[g.ord],
                        'kind', judged.wait_kinds[g.ord], 'queue', bases[i], 'due_at', judged.due[g.ord],
                        'fence', keys.fences[g.ord], 'key', judged.wait_keys[g.ord]))
                    FROM unnest(turned.park_ords) AS g(ord)), '[]');
                SELECT park_tasks || coalesce(array_agg(keys.task_uuids[g.ord]), '{}'),
                       park_positions || coalesce(array_agg(keys.positions[g.ord]), '{}'),
                       park_maps || coalesce(array_agg(keys.maps[g.ord]), '{}'),
                       pass_on + count(*) FILTER (WHERE keys.msg_ids[g.ord] IS NULL AND starts_with(judged.wait_keys[g.ord], 'key:')),
                       pass_all + count(*) FILTER (WHERE keys.msg_ids[g.ord] IS NULL AND judged.wait_kinds[g.ord] = 'circuit')
                INTO park_tasks, park_positions, park_maps, pass_on, pass_all FROM unnest(turned.park_ords) AS g(ord);
                over_budget := over_budget OR 'over' = ANY (verdicts);
            END IF;
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
                'found_from', '{}'::json, 'circuits', tasker.describe_circuits(), 'probes', '{}'::json);
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
    IF hold_rows <> '[]' THEN
        INSERT INTO tasker.limit_holders AS h (task_uuid, position, map_index, limit_key, fence)
        SELECT x.task_uuid, x.position, x.map_index, x.key, x.fence
        FROM jsonb_to_recordset(hold_rows) AS x(task_uuid uuid, position integer, map_index integer, key text, fence integer)
        ON CONFLICT ON CONSTRAINT limit_holders_pkey DO UPDATE SET fence = excluded.fence;
    END IF;
    IF ledger->'rates' <> '{}' THEN
        INSERT INTO tasker.rate_limits AS r (limit_key, next_at)
        SELECT e.key, (e.value #>> '{}')::timestamptz FROM jsonb_each(ledger->'rates') AS e WHERE e.value <> 'false'
        ON CONFLICT ON CONSTRAINT rate_limits_pkey DO UPDATE SET next_at = excluded.next_at;
    END IF;
    IF park_rows <> '[]' THEN
        -- A step that was parked before keeps its place among those that wait, also if it was woken for nothing meanwhile.
        INSERT INTO tasker.step_timers AS w (task_uuid, position, map_index, kind, queue, due_at, set_at, fence, key)
        SELECT x.task_uuid, x.position, x.map_index, x.kind, x.queue, x.due_at, moment + x.no * interval '1 microsecond', x.fence, x.key
        FROM ROWS FROM (jsonb_to_recordset(park_rows) AS (task_uuid uuid, position integer, map_index integer, kind text, queue text,
                                                          due_at timestamptz, fence integer, key text))
             WITH ORDINALITY AS x(task_uuid, position, map_index, kind, queue, due_at, fence, key, no)
        ON CONFLICT ON CONSTRAINT step_timers_pkey DO UPDATE
        SET kind = excluded.kind, due_at = excluded.due_at, key = excluded.key,
            set_at = CASE WHEN w.set_at > moment - interval '1 day' AND w.set_at < excluded.set_at THEN w.set_at ELSE excluded.set_at END;
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
        IF cardinality(circuits.not_closed) > 0 THEN
            SELECT least(next_due, extract(epoch FROM min(coalesce(c.retry_at, c.probe_until)) - moment)) INTO next_due
            FROM tasker.circuit_breakers AS c
            WHERE c.state <> 'closed' AND NOT c.forced AND EXISTS (
                SELECT FROM tasker.step_timers AS x WHERE x.key = 'circuit:' || c.name AND x.queue = ANY (bases));
        END IF;
        IF is_left THEN
            -- Not at once, though a timer may be due: whoever decides would be asked without a pause.
            next_due := 0.02;
        END IF;
    END IF;
    claimed := tasker.describe_claims(take_tasks, take_positions, take_maps,
                                      tasker.whole_numbers(request->'known_templates')::integer[], max_bytes);
    IF pass_on + pass_all > 0 THEN
        -- Who was woken for one limit's room waits for something else now: that room is another's. (Those of one key are all of
        -- one namespace: where that is full, they would wait, too.) Some more than there is room for: the next ones may
        -- have the same to wait for, thousands of them. Last, as tasker.release_limits.
        PERFORM tasker.unpark_steps(r.key, r.value::integer + 2 * (pass_on + pass_all), false)
        FROM jsonb_each_text(ledger->'rooms') AS r WHERE r.value::integer > 0 AND (pass_all > 0 OR starts_with(r.key, 'ns:'));
    END IF;
    RETURN json_build_object(
        'steps', claimed.steps, 'tasks', claimed.tasks, 'results', claimed.results, 'templates', claimed.templates,
        'call_no', this_call, 'stop_requested', stop,
        'next_due_seconds', CASE WHEN next_due > 0 THEN next_due WHEN next_due <= 0 THEN 0 END,
        'found_from', CASE WHEN n_queues > 0 THEN json_object(served, firsts::text[]) ELSE '{}' END,
        -- Those of its own probes have moved on since they were read.
        'circuits', CASE WHEN circuits.any_to_tell THEN tasker.describe_circuits() ELSE '{}' END,
        'probes', CASE WHEN ledger->'probes' = '{}' THEN '{}'::json
                       ELSE (SELECT json_object_agg(e.value, e.key) FROM jsonb_each_text(ledger->'probes') AS e) END,
        'queue_empty', n_queues = 0 OR (false <> ALL (dry) AND NOT over_budget AND NOT alone AND NOT more_timers AND NOT is_partial));
END
$$;
