-- Decides which of the steps that a claim has locked may run, where circuits or limits guard some of them. Internal.
--
-- Arrays speak of the claim's steps, in one order; passed_over are those that it took or parked before. Verdicts: "go" (it
-- runs: what guards it has been given to it, so the claim takes these and no others), "park" (it waits: wait_kinds, wait_keys,
-- due), "leave" (somebody else is deciding under the same limit; its message stays for another call), "over" (no time is left
-- for it), none (not looked at: for another call, or not due). For those that go: ns_keys and own_keys, the limits they hold.
-- ledger carries from one look of a claim to the next what it has given away: rooms {key: how many more}, rates {key: next_at},
-- circuits {name: open | probe | held | closed}, probes {name: step_uuid}.
--
-- A limit's key is locked for the claim's transaction, so that counting and taking are one; nobody waits for it here. In use
-- is what a holder's step says: in_progress under the holder's fence. That cannot leak: a step that ended, was lost or taken
-- back in any way counts for nothing. A rate is GCRA: a step that comes too early is parked until the moment that is kept for
-- it. A circuit that is open parks; when its time is up, one step is let through.
CREATE OR REPLACE FUNCTION tasker.judge_guarded(
    task_uuids uuid[], positions integer[], map_indexes integer[], msg_ids bigint[], states text[], losses integer[],
    served text, passed_over bigint[], wanted integer, n_taken integer, spent double precision, budget double precision, actor text,
    INOUT ledger jsonb,
    OUT verdicts text[], OUT wait_kinds text[], OUT wait_keys text[], OUT due timestamptz[], OUT ns_keys text[], OUT own_keys text[])
LANGUAGE plpgsql
AS $$
DECLARE
    moment constant timestamptz := tasker.now();
    -- What nobody wakes is looked at again: a net below the wakes, seldom enough for a hundred thousand parked steps.
    net constant interval := interval '10 minutes';
    n constant integer := cardinality(task_uuids);
    s record;
    limits record;
    guard record;
    verdict text;
    state text;
    granted integer := 0;
    cost double precision := spent;
    keys text[];
    k text;
    start_at timestamptz;
BEGIN
    verdicts := array_fill(NULL::text, ARRAY[n]); wait_kinds := verdicts; wait_keys := verdicts; ns_keys := verdicts;
    own_keys := verdicts; due := array_fill(NULL::timestamptz, ARRAY[n]);
    SELECT x.name, x.max_concurrency, x.rate_count, x.rate_seconds INTO limits FROM tasker.namespaces AS x WHERE x.queue = served;

    -- In the order in which the claim takes.
    FOR s IN
        SELECT a.no, n.system_dependency, coalesce(n.expected_ms, budget) AS expected, t.concurrency_key, t.named_task_id,
               a.task_uuid, a.step_position, a.map_index, d.namespace, d.key_max_concurrency, d.key_rate_count, d.key_rate_seconds,
               coalesce(n.timeout_seconds, 3600) AS timeout_seconds, w.key = 'rate' AS has_moment, w.due_at, a.losses, a.msg_id
        FROM unnest(task_uuids, positions, map_indexes, msg_ids, states, losses)
             WITH ORDINALITY AS a(task_uuid, step_position, map_index, msg_id, state, losses, no)
        CROSS JOIN LATERAL (SELECT x.state, x.named_task_id, x.concurrency_key FROM tasker.tasks AS x
                            WHERE x.task_uuid = a.task_uuid OFFSET 0) AS t
        CROSS JOIN LATERAL (SELECT x.system_dependency, x.expected_ms, x.timeout_seconds FROM tasker.named_steps AS x
                            WHERE x.named_task_id = t.named_task_id AND x.position = a.step_position OFFSET 0) AS n
        CROSS JOIN LATERAL (SELECT x.namespace, x.key_max_concurrency, x.key_rate_count, x.key_rate_seconds FROM tasker.named_tasks AS x
                            WHERE x.named_task_id = t.named_task_id OFFSET 0) AS d
        LEFT JOIN LATERAL (SELECT x.due_at, x.kind, x.key FROM tasker.step_timers AS x
                           WHERE x.task_uuid = a.task_uuid AND x.position = a.step_position
                             AND x.map_index = a.map_index OFFSET 0) AS w ON true
        WHERE a.no <> ALL (passed_over) AND t.state <> 'paused' AND (a.msg_id IS NOT NULL AND a.state = 'enqueued'
                                       OR w.due_at <= moment AND a.state IN ('enqueued', 'waiting_for_retry'))
        ORDER BY a.msg_id NULLS FIRST, w.due_at
    LOOP
        EXIT WHEN n_taken + granted >= wanted;
        -- A step that has seen an executor die goes alone, or another time.
        CONTINUE WHEN n_taken + granted > 0 AND s.losses > 0;
        IF n_taken + granted > 0 AND cost + s.expected > budget THEN
            verdicts[s.no] := 'over';
            EXIT;
        END IF;
        verdict := NULL;
        IF s.has_moment AND s.due_at > moment THEN
            -- One more message of a step whose moment has not come.
            verdicts[s.no] := 'park'; wait_kinds[s.no] := 'limit'; wait_keys[s.no] := 'rate'; due[s.no] := s.due_at;
            CONTINUE;
        END IF;

        -- How many run at once.
        keys := '{}';
        IF s.key_max_concurrency IS NOT NULL THEN
            own_keys[s.no] := format('key:%s:%s', s.namespace, s.concurrency_key);
            keys := keys || own_keys[s.no];
        END IF;
        IF limits.max_concurrency IS NOT NULL THEN
            ns_keys[s.no] := 'ns:' || limits.name;
            keys := keys || ns_keys[s.no];
        END IF;
        FOREACH k IN ARRAY keys LOOP
            -- One that was woken may leave room to others: the claim passes it on, and must know how much.
            EXIT WHEN verdict IS NOT NULL AND s.msg_id IS NOT NULL;
            IF ledger->'rooms'->k IS NULL THEN
                ledger := jsonb_set(ledger, ARRAY['rooms', k], to_jsonb(
                    tasker.limit_room(k, CASE WHEN k = ns_keys[s.no] THEN limits.max_concurrency ELSE s.key_max_concurrency END)));
            END IF;
            CONTINUE WHEN verdict IS NOT NULL;
            IF (ledger->'rooms'->>k)::integer < 0 THEN
                verdict := 'leave';
                EXIT;
            ELSIF (ledger->'rooms'->>k)::integer = 0 THEN
                verdict := 'park'; wait_kinds[s.no] := 'limit'; wait_keys[s.no] := k; due[s.no] := moment + net;
            END IF;
        END LOOP;

        -- The circuit. Its row is held, so that it cannot close between this look and the timer.
        IF verdict IS NULL AND s.system_dependency IS NOT NULL THEN
            state := ledger->'circuits'->>s.system_dependency;
            IF state IS NULL THEN
                SELECT x.state, NOT x.forced AND coalesce(x.retry_at, x.probe_until) <= moment AS may_try INTO guard
                FROM tasker.circuit_breakers AS x WHERE x.name = s.system_dependency FOR NO KEY UPDATE SKIP LOCKED;
                IF NOT FOUND THEN
                    state := CASE WHEN EXISTS (SELECT FROM tasker.circuit_breakers AS x
                                               WHERE x.name = s.system_dependency AND x.state <> 'closed') THEN 'held' ELSE 'closed' END;
                ELSE
                    state := CASE WHEN guard.state = 'closed' THEN 'closed' WHEN guard.may_try THEN 'probe' ELSE 'open' END;
                END IF;
                ledger := jsonb_set(ledger, ARRAY['circuits', s.system_dependency], to_jsonb(state));
            END IF;
            IF state = 'held' THEN
                verdict := 'leave';
            ELSIF state = 'open' THEN
                verdict := 'park'; wait_kinds[s.no] := 'circuit'; wait_keys[s.no] := 'circuit:' || s.system_dependency;
                due[s.no] := moment + net;
            END IF;
        END IF;

        -- How many start in a time. Who waited for its moment has paid.
        IF verdict IS NULL AND s.has_moment IS NOT TRUE THEN
            FOR guard IN
                SELECT r.key, r.seconds / r.count AS every, r.seconds
                FROM (VALUES (format('key:%s:%s', s.namespace, s.concurrency_key), s.key_rate_count, s.key_rate_seconds),
                             ('ns:' || limits.name, limits.rate_count, limits.rate_seconds)) AS r(key, count, seconds)
                WHERE r.count IS NOT NULL
            LOOP
                IF ledger->'rates'->guard.key IS NULL THEN
                    ledger := jsonb_set(ledger, ARRAY['rates', guard.key], CASE
                        WHEN NOT pg_try_advisory_xact_lock(hashtextextended('tasker.rate:' || guard.key, 0)) THEN 'false'::jsonb
                        -- No further ahead than moments are kept: the rate was another one then, or the clock was set back.
                        ELSE coalesce((SELECT to_jsonb(least(r.next_at, moment + net + make_interval(secs => guard.seconds)))
                                       FROM tasker.rate_limits AS r WHERE r.limit_key = guard.key), to_jsonb(moment)) END);
                END IF;
                IF ledger->'rates'->guard.key = 'false' THEN
                    verdict := 'leave';
                    EXIT;
                END IF;
                start_at := greatest((ledger->'rates'->>guard.key)::timestamptz, moment);
                IF start_at - make_interval(secs => guard.seconds - guard.every) > moment + net THEN
                    -- No moment is kept for it that far ahead: it comes again.
                    verdict := 'park'; wait_kinds[s.no] := 'limit'; wait_keys[s.no] := 'later:' || guard.key; due[s.no] := moment + net;
                    EXIT;
                END IF;
                ledger := jsonb_set(ledger, ARRAY['rates', guard.key], to_jsonb(start_at + make_interval(secs => guard.every)));
                start_at := start_at - make_interval(secs => guard.seconds - guard.every);
                IF start_at > moment THEN
                    verdict := 'park'; wait_kinds[s.no] := 'limit'; wait_keys[s.no] := 'rate';
                    due[s.no] := greatest(start_at, coalesce(due[s.no], start_at));
                END IF;
            END LOOP;
        END IF;

        verdicts[s.no] := coalesce(verdict, 'go');
        IF verdict IS NULL THEN
            granted := granted + 1;
            cost := cost + s.expected;
            FOREACH k IN ARRAY keys LOOP
                ledger := jsonb_set(ledger, ARRAY['rooms', k], to_jsonb((ledger->'rooms'->>k)::integer - 1));
            END LOOP;
            IF s.system_dependency IS NOT NULL AND ledger->'circuits'->>s.system_dependency = 'probe' THEN
                PERFORM tasker.begin_probe(s.system_dependency, least(s.timeout_seconds + 5, 3600), actor);
                ledger := jsonb_set(ledger, ARRAY['circuits', s.system_dependency], '"open"');
                ledger := jsonb_set(ledger, ARRAY['probes', s.system_dependency],
                                    to_jsonb(tasker.step_uuid(s.task_uuid, s.step_position, s.map_index)));
            END IF;
            EXIT WHEN s.losses > 0;
        END IF;
    END LOOP;
END
$$;
