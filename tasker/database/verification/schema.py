"""Rules about the schema: what holds the data to its form must be there, valid, and what this release ships."""

from __future__ import annotations

from tasker.database.verification.rule import Check, Rule

_MIGRATE = "run `tasker db migrate`"

WORKFLOWS = Check(
    about="workflows",
    source="""
        FROM tasker.named_tasks AS d
        LEFT JOIN (SELECT n.named_task_id, count(*) AS steps FROM tasker.named_steps AS n
                   GROUP BY n.named_task_id) AS k ON k.named_task_id = d.named_task_id
        LEFT JOIN (
            SELECT coalesce(a.named_task_id, b.named_task_id) AS named_task_id, count(*) AS n
            FROM (SELECT n.named_task_id, n.position AS child, e.parent FROM tasker.named_steps AS n
                  CROSS JOIN LATERAL unnest(n.depends_on) AS e(parent)) AS a
            FULL JOIN (SELECT n.named_task_id, e.child, n.position AS parent FROM tasker.named_steps AS n
                       CROSS JOIN LATERAL unnest(n.dependents) AS e(child)) AS b
              ON b.named_task_id = a.named_task_id AND b.child = a.child AND b.parent = a.parent
            WHERE a.child IS NULL OR b.child IS NULL
            GROUP BY 1) AS o ON o.named_task_id = d.named_task_id""",
    rules=(
        Rule(
            "workflow-steps",
            "a workflow version has as many steps as it says",
            "d.step_count <> coalesce(k.steps, 0)",
            "format('%s/%s %s has %s steps of %s', d.namespace, d.name, d.version, coalesce(k.steps, 0), d.step_count)",
            "its named_steps were changed by hand: restore them",
        ),
        Rule(
            "workflow-edges",
            "the edges of a workflow say the same from both ends",
            "o.n > 0",
            "format('%s/%s %s: %s edges are known at one end alone', d.namespace, d.name, d.version, o.n)",
            "its named_steps were changed by hand: restore them",
        ),
    ),
)

QUEUES = Check(
    about="queues",
    source="""
        FROM (SELECT x.queue || b.suffix AS queue FROM tasker.namespaces AS x
              CROSS JOIN LATERAL (VALUES ('', true), ('_high', x.has_high), ('_low', x.has_low)) AS b(suffix, is_there)
              WHERE b.is_there
              UNION ALL
              SELECT unnest(ARRAY['task_requests_queue', 'orchestration_step_results',
                                  'step_enqueue', 'task_finalization'])) AS q""",
    rules=(
        Rule(
            "queue-exists",
            "every namespace has its queue, and so has every orchestration executor",
            "to_regclass(format('pgmq.%I', 'q_' || q.queue)) IS NULL",
            "format('there is no queue %s', q.queue)",
            "somebody dropped it: make it again (`SELECT tasker.queue_ensure(name)`); messages in it are lost",
        ),
    ),
)

PARTITIONS = Check(
    about="partitions of the audit tables",
    source=r"""
        FROM (SELECT y.*, lead(y.starts_at) OVER (PARTITION BY y.parent ORDER BY y.starts_at) AS next_starts_at,
                     min(y.starts_at) OVER (PARTITION BY y.parent) AS first_starts_at
              FROM (SELECT x.parent, x.name, x.is_partition, CASE x.bounds[1] WHEN 'MINVALUE' THEN '-infinity'
                                         ELSE CAST(btrim(x.bounds[1], '''') AS timestamptz) END AS starts_at,
                           CASE x.bounds[2] WHEN 'MAXVALUE' THEN 'infinity'
                                         ELSE CAST(btrim(x.bounds[2], '''') AS timestamptz) END AS ends_at
                    FROM (SELECT p.relname AS parent, c.relname AS name, c.oid IS NOT NULL AS is_partition,
                                 regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \((.*)\) TO \((.*)\)') AS bounds
                          FROM pg_class AS p
                          LEFT JOIN pg_inherits AS i ON i.inhparent = p.oid
                          LEFT JOIN pg_class AS c ON c.oid = i.inhrelid
                          WHERE p.relnamespace = CAST('tasker' AS regnamespace) AND p.relkind = 'p') AS x
                   ) AS y) AS z""",
    rules=(
        Rule(
            "partitions-cover-time",
            "an audit table has a partition for every moment from its first one on",
            "NOT z.is_partition OR z.first_starts_at > $moment OR z.ends_at <> coalesce(z.next_starts_at, 'infinity')",
            "CASE WHEN NOT z.is_partition THEN format('%s has no partition', z.parent)"
            " WHEN z.first_starts_at > $moment THEN format('%s begins at %s', z.parent, z.first_starts_at)"
            " ELSE format('%s: nothing between %s and %s', z.parent, z.ends_at, z.next_starts_at) END",
            "completions fail once the gap is reached: attach what was detached, or make the partition by hand",
        ),
    ),
)

INDEXES = Check(
    about="indexes",
    source="""
        FROM (VALUES $indexes) AS w(name)
        LEFT JOIN (SELECT c.relname, i.indisvalid AND i.indisready AS is_good FROM pg_index AS i
                   JOIN pg_class AS c ON c.oid = i.indexrelid
                   WHERE c.relnamespace = CAST('tasker' AS regnamespace)) AS i ON i.relname = w.name""",
    rules=(
        Rule(
            "indexes-in-place",
            "every index of this release is there and valid",
            "i.is_good IS DISTINCT FROM true",
            "format('index %s %s', w.name, CASE WHEN i.relname IS NULL THEN 'is gone' ELSE 'is not valid' END)",
            "make it again as `tasker db sql` prints it; a unique one also keeps the data right",
        ),
    ),
)

CONSTRAINTS = Check(
    about="constraints",
    source="""
        FROM pg_constraint AS c
        JOIN pg_class AS k ON k.oid = c.conrelid
        CROSS JOIN LATERAL (SELECT to_jsonb(c) AS columns) AS j""",
    where="""
        c.connamespace = CAST('tasker' AS regnamespace) AND c.contype IN ('c', 'f') AND NOT k.relispartition
        AND c.conname <> 'allowed_transition'""",
    rules=(
        Rule(
            "constraints-in-force",
            "every constraint on the engine's tables is valid and enforced",
            # "conenforced" is newer than the oldest server; where there is no such column, all are.
            "NOT c.convalidated OR j.columns->>'conenforced' = 'false'",
            "format('%s on %s is %s', c.conname, k.relname,"
            " CASE WHEN j.columns->>'conenforced' = 'false' THEN 'not enforced' ELSE 'not valid' END)",
            "ALTER TABLE tasker.TABLE VALIDATE CONSTRAINT NAME; rows that break it are named by other rules",
        ),
    ),
)

TRANSITION_CHECKS = Check(
    about="constraints on transitions",
    source="""
        FROM (SELECT 'task_transitions' AS name,
                     array_agg(a.from_state || '>' || a.to_state ORDER BY a.from_state, a.to_state) AS pairs
              FROM tasker.allowed_task_transitions() AS a
              UNION ALL
              SELECT 'workflow_step_transitions',
                     array_agg(a.from_state || '>' || a.to_state ORDER BY a.from_state, a.to_state)
              FROM tasker.allowed_step_transitions() AS a) AS w
        LEFT JOIN pg_constraint AS c
          ON c.conrelid = to_regclass(format('tasker.%I', w.name)) AND c.conname = 'allowed_transition'""",
    rules=(
        Rule(
            "transitions-are-held",
            "the audit tables refuse transitions that are not allowed",
            "c.oid IS NULL OR obj_description(c.oid, 'pg_constraint') IS DISTINCT FROM md5(CAST(w.pairs AS text))",
            "format('%s: its constraint allowed_transition %s', w.name,"
            " CASE WHEN c.oid IS NULL THEN 'is gone' ELSE 'is that of other transitions' END)",
            "let the owner of the schema call tasker.ensure_transition_checks",
        ),
    ),
)

FUNCTIONS = Check(
    about="functions",
    source="""
        FROM (VALUES $functions) AS w(name, body)
        LEFT JOIN (SELECT p.proname, max(md5(p.prosrc)) AS body, count(*) AS n FROM pg_proc AS p
                   WHERE p.pronamespace = CAST('tasker' AS regnamespace) GROUP BY p.proname) AS f ON f.proname = w.name
        LEFT JOIN pg_class AS c
          ON c.relnamespace = CAST('tasker' AS regnamespace) AND c.relname = w.name AND c.relkind = 'v'""",
    rules=(
        Rule(
            "functions-as-shipped",
            "the functions and views are those of this release",
            "CASE WHEN w.body IS NULL THEN c.oid IS NULL ELSE f.n IS DISTINCT FROM 1 OR f.body <> w.body END",
            "format('tasker.%s %s', w.name, CASE WHEN coalesce(f.n, 0) > 1 THEN 'exists several times'"
            " WHEN f.n = 1 THEN 'was changed by hand' ELSE 'is gone' END)",
            "apply its file again (`tasker db sql` prints it): all other rules stand on these functions",
        ),
    ),
)

RIGHTS = Check(
    about="rights",
    source="""
        FROM (SELECT CAST(CAST(p.oid AS regprocedure) AS text) AS what FROM pg_proc AS p
              CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
              WHERE p.pronamespace = CAST('tasker' AS regnamespace) AND a.grantee = 0
              UNION ALL
              SELECT CAST(CAST(c.oid AS regclass) AS text) FROM pg_class AS c
              CROSS JOIN LATERAL aclexplode(c.relacl) AS a
              WHERE c.relnamespace = CAST('tasker' AS regnamespace) AND c.relkind IN ('r', 'p', 'v', 'm')
                AND a.grantee = 0) AS x""",
    rules=(
        Rule(
            "public-has-nothing",
            "the schema gives no right to PUBLIC",
            "true",
            "format('PUBLIC has a right on %s', x.what)",
            "REVOKE ALL ON it FROM PUBLIC; grant the roles tasker_client, tasker_worker, tasker_operator instead",
        ),
    ),
)

CHECKS = (WORKFLOWS, QUEUES, PARTITIONS, INDEXES, CONSTRAINTS, TRANSITION_CHECKS, FUNCTIONS, RIGHTS)
