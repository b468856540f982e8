"""Tables of the engine: workflows, tasks, steps, receipts, timers, executors, audit.

Revision ID: 0001
Revises:

Functions are not made here: they are files in ``migrations/functions``, applied after all revisions. The CHECK that
holds audit rows to the allowed transitions is made from two of them, by ``tasker.ensure_transition_checks()``.

Three rules explain most of what looks unusual below:

* State columns carry no index, and tables that are updated often keep free space on their pages, so that nearly all
  updates are HOT. What must be found is found by a queue message, a receipt, a timer, or a partial index whose
  predicate changes once in a row's life.
* Tasks, steps and audit rows have no foreign keys: they would cost more than half of the insert rate, and multixacts.
* Payloads (contexts, results, errors) are in no index.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

DDL = r"""
CREATE SCHEMA IF NOT EXISTS tasker;
COMMENT ON SCHEMA tasker IS 'Tasker: workflows of steps, run by executors. Every state change is one function call.';

CREATE TABLE tasker.schema_functions (
    name       text PRIMARY KEY,
    digest     text NOT NULL,
    signatures text[] NOT NULL DEFAULT '{}',
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE tasker.schema_functions IS
    'Which text of each file in migrations/functions is installed, so that only changed ones are applied again.';

-- ---------------------------------------------------------------------------------------------- definitions

CREATE TABLE tasker.namespaces (
    name       text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,32}$'),
    queue      text NOT NULL UNIQUE GENERATED ALWAYS AS (name || '_queue') STORED,
    paused_at  timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE tasker.namespaces IS 'Each namespace has one step queue. A paused one is not popped.';

CREATE TABLE tasker.named_tasks (
    named_task_id     integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    namespace         text NOT NULL REFERENCES tasker.namespaces,
    name              text NOT NULL CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'),
    version           text NOT NULL CHECK (version ~ '^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}$'),
    version_order     integer[] NOT NULL
        GENERATED ALWAYS AS (string_to_array(version, '.')::integer[]) STORED,
    digest            text NOT NULL,
    definition        jsonb NOT NULL,
    identity_strategy text CHECK (identity_strategy IN ('strict', 'caller_provided', 'always_unique')),
    input_schema      jsonb,
    has_after_work    boolean NOT NULL DEFAULT false,
    max_context_bytes integer NOT NULL DEFAULT 1048576 CHECK (max_context_bytes > 0),
    step_count        integer NOT NULL CHECK (step_count BETWEEN 1 AND 65534),
    used              boolean NOT NULL DEFAULT false,
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (namespace, name, version)
);
COMMENT ON TABLE tasker.named_tasks IS 'One version of a workflow. Immutable once a task uses it (used).';
COMMENT ON COLUMN tasker.named_tasks.has_after_work IS
    'Completion hooks exist: a finished task waits for a finalizer (finalized_at), all others are final at once.';

CREATE TABLE tasker.named_steps (
    named_task_id      integer NOT NULL REFERENCES tasker.named_tasks ON DELETE CASCADE,
    position           integer NOT NULL CHECK (position BETWEEN 0 AND 65533),
    name               text NOT NULL CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'),
    kind               text NOT NULL DEFAULT 'standard' CHECK (kind IN ('standard')),
    namespace          text NOT NULL REFERENCES tasker.namespaces,
    queue              text NOT NULL GENERATED ALWAYS AS (namespace || '_queue') STORED,
    handler            jsonb NOT NULL,
    delegated          boolean NOT NULL DEFAULT false,
    depends_on         integer[] NOT NULL DEFAULT '{}',
    dependents         integer[] NOT NULL DEFAULT '{}',
    retryable          boolean NOT NULL DEFAULT true,
    max_attempts       integer NOT NULL DEFAULT 3 CHECK (max_attempts BETWEEN 1 AND 32767),
    backoff            text NOT NULL DEFAULT 'exponential'
        CHECK (backoff IN ('exponential', 'linear', 'fixed', 'none')),
    backoff_base_ms    bigint NOT NULL DEFAULT 1000 CHECK (backoff_base_ms BETWEEN 0 AND 2592000000),
    backoff_max_ms     bigint NOT NULL DEFAULT 60000 CHECK (backoff_max_ms BETWEEN 0 AND 2592000000),
    backoff_multiplier double precision NOT NULL DEFAULT 2 CHECK (backoff_multiplier BETWEEN 1 AND 100),
    jitter_fraction    double precision NOT NULL DEFAULT 0 CHECK (jitter_fraction BETWEEN 0 AND 1),
    timeout_seconds    double precision CHECK (timeout_seconds > 0),
    system_dependency  text,
    result_schema      jsonb,
    expected_ms        double precision CHECK (expected_ms >= 0),
    PRIMARY KEY (named_task_id, position),
    UNIQUE (named_task_id, name),
    CHECK (NOT delegated OR timeout_seconds IS NOT NULL),
    -- Positions are a topological order, so a cycle cannot even be written down.
    CHECK (position > ALL (depends_on)),
    CHECK (position < ALL (dependents))
) WITH (fillfactor = 70);
COMMENT ON TABLE tasker.named_steps IS 'The graph, stored once per version: edges are arrays of positions.';
COMMENT ON COLUMN tasker.named_steps.expected_ms IS
    'Moving average of a run, written by heartbeats, never by completions. Unknown counts as a whole claim budget.';

-- ----------------------------------------------------------------------------------------------------- runs

CREATE TABLE tasker.tasks (
    task_uuid                     uuid PRIMARY KEY,
    named_task_id                 integer NOT NULL,
    state                         text NOT NULL CHECK (state IN ('pending', 'in_progress', 'paused', 'complete',
                                                                 'error', 'cancelled', 'resolved_manually')),
    priority                      integer NOT NULL DEFAULT 0,
    total                         integer NOT NULL CHECK (total >= 1),
    active                        integer NOT NULL DEFAULT 0 CHECK (active BETWEEN 0 AND total),
    open                          integer CHECK (open >= 0),
    failed                        integer CHECK (failed >= 0),
    skipped                       integer CHECK (skipped >= 0),
    context_checked               boolean NOT NULL DEFAULT true,
    scheduled                     boolean NOT NULL DEFAULT false,
    created_at                    timestamptz NOT NULL,
    run_at                        timestamptz,
    admitted_at                   timestamptz,
    finished_at                   timestamptz,
    finalized_at                  timestamptz,
    finish_no                     integer NOT NULL DEFAULT 1 CHECK (finish_no >= 1),
    claim_no                      integer NOT NULL DEFAULT 0 CHECK (claim_no >= 0),
    claimed_by                    text,
    claimed_at                    timestamptz,
    claim_expires_at              timestamptz,
    finalization_claimed_by       text,
    finalization_claimed_at       timestamptz,
    finalization_claim_expires_at timestamptz,
    parent_task_uuid              uuid,
    correlation_id                text,
    initiator                     text,
    source_system                 text,
    reason                        text,
    tags                          text[] NOT NULL DEFAULT '{}',
    CHECK ((state IN ('complete', 'error', 'cancelled', 'resolved_manually')) = (finished_at IS NOT NULL)),
    CHECK (finished_at IS NULL OR active = 0),
    CHECK (finalized_at IS NULL OR finished_at IS NOT NULL),
    CHECK (active = 0 OR admitted_at IS NOT NULL),
    CHECK (state <> 'in_progress' OR admitted_at IS NOT NULL),
    CHECK (NOT scheduled OR run_at IS NOT NULL),
    CHECK ((claimed_by IS NULL) = (claim_expires_at IS NULL) AND (claimed_by IS NULL) = (claimed_at IS NULL)),
    CHECK ((finalization_claimed_by IS NULL) = (finalization_claim_expires_at IS NULL)
       AND (finalization_claimed_by IS NULL) = (finalization_claimed_at IS NULL))
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);
COMMENT ON COLUMN tasker.tasks.active IS 'Steps that are enqueued, in_progress or waiting_for_retry. 0 ends the task.';
COMMENT ON COLUMN tasker.tasks.open IS 'Once terminal: steps that never reached a terminal state.';
COMMENT ON COLUMN tasker.tasks.finish_no IS 'Counts the times the task was (re)opened; part of a hook''s identity.';
COMMENT ON COLUMN tasker.tasks.claim_no IS 'Rises with every finalization claim, never falls.';
COMMENT ON COLUMN tasker.tasks.scheduled IS 'run_at lies ahead; cleared when it is due, which moves the row to the other index.';

-- The net of the sweep pages through what was admitted and has not ended. Tasks that wait for admission are kept out: else
-- their own two indexes would have a rival that knows no order and holds everything that runs.
CREATE INDEX tasks_open ON tasker.tasks (task_uuid) WHERE finished_at IS NULL AND admitted_at IS NOT NULL;
-- Admission: scheduled tasks by time, due ones by priority and age; future tasks never stand in front.
CREATE INDEX tasks_scheduled ON tasker.tasks (run_at) WHERE admitted_at IS NULL AND finished_at IS NULL AND scheduled;
CREATE INDEX tasks_due ON tasker.tasks (priority DESC, task_uuid)
    WHERE admitted_at IS NULL AND finished_at IS NULL AND NOT scheduled;
-- After-work that is due; empty for templates without hooks.
CREATE INDEX tasks_to_finalize ON tasker.tasks (finished_at) WHERE finished_at IS NOT NULL AND finalized_at IS NULL;

CREATE TABLE tasker.task_contexts (
    task_uuid uuid PRIMARY KEY,
    context   jsonb NOT NULL
);
COMMENT ON TABLE tasker.task_contexts IS 'Insert-only and apart, so that updates of a task never copy its context.';

CREATE TABLE tasker.task_identities (
    identity_hash bytea PRIMARY KEY CHECK (octet_length(identity_hash) = 32),
    task_uuid     uuid NOT NULL
);
COMMENT ON TABLE tasker.task_identities IS 'What must be unique. Lives until its task is pruned.';

CREATE TABLE tasker.workflow_steps (
    task_uuid       uuid NOT NULL,
    position        integer NOT NULL,
    map_index       integer NOT NULL DEFAULT 0 CHECK (map_index BETWEEN 0 AND 16777215),
    step_uuid       uuid NOT NULL,
    state           text NOT NULL CHECK (state IN ('pending', 'enqueued', 'in_progress', 'waiting_for_retry', 'complete',
                                                   'error', 'cancelled', 'resolved_manually', 'skipped')),
    unmet           integer NOT NULL CHECK (unmet >= 0),
    fence           integer NOT NULL DEFAULT 0 CHECK (fence >= 0),
    attempts        integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    losses          integer NOT NULL DEFAULT 0 CHECK (losses >= 0),
    executor        uuid,
    start_marked_at timestamptz,
    started_at      timestamptz,
    finished_at     timestamptz,
    error           jsonb,
    results         jsonb,
    PRIMARY KEY (task_uuid, position, map_index),
    CHECK (state NOT IN ('enqueued', 'in_progress', 'waiting_for_retry', 'complete') OR unmet = 0),
    CHECK (state <> 'in_progress' OR (executor IS NOT NULL AND fence > 0 AND attempts > 0)),
    CHECK ((state IN ('complete', 'error', 'cancelled', 'resolved_manually', 'skipped')) = (finished_at IS NOT NULL))
) WITH (fillfactor = 55, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);
COMMENT ON COLUMN tasker.workflow_steps.fence IS 'Rises with every claim and is never lowered: outcomes and receipts carry it.';
COMMENT ON COLUMN tasker.workflow_steps.attempts IS 'The retry budget spent; given back by release and recovery.';
COMMENT ON COLUMN tasker.workflow_steps.losses IS 'How many executors died with it; 5 are poison.';
COMMENT ON COLUMN tasker.workflow_steps.unmet IS 'Dependencies not yet satisfied; decremented by whoever satisfies one.';
COMMENT ON COLUMN tasker.workflow_steps.executor IS 'Who runs it or ran it last; kept, so that a repeated report is recognized.';

CREATE TABLE tasker.step_claims (
    executor    uuid NOT NULL,
    call_no     bigint NOT NULL CHECK (call_no >= 1),
    task_uuids  uuid[] NOT NULL DEFAULT '{}',
    positions   integer[] NOT NULL DEFAULT '{}',
    map_indexes integer[] NOT NULL DEFAULT '{}',
    fences      integer[] NOT NULL DEFAULT '{}',
    claimed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (executor, call_no),
    CHECK (cardinality(task_uuids) = cardinality(positions) AND cardinality(task_uuids) = cardinality(map_indexes)
       AND cardinality(task_uuids) = cardinality(fences))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE tasker.step_claims IS 'The receipt of a call that claimed steps: it is their lease.';

CREATE TABLE tasker.step_timers (
    task_uuid uuid NOT NULL,
    position  integer NOT NULL,
    map_index integer NOT NULL DEFAULT 0,
    kind      text NOT NULL CHECK (kind IN ('retry', 'deadline')),
    queue     text NOT NULL,
    due_at    timestamptz NOT NULL,
    set_at    timestamptz NOT NULL,
    fence     integer NOT NULL,
    PRIMARY KEY (task_uuid, position, map_index),
    -- One absurd delay must not lie in the table for ever: a month is the most anybody may wait.
    CHECK (due_at <= set_at + interval '31 days')
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX step_timers_due ON tasker.step_timers (queue, due_at);
COMMENT ON TABLE tasker.step_timers IS
    'Delays are rows. A retry is found under its step queue; a deadline of a delegated step under orchestration_step_results.';

-- ---------------------------------------------------------------------------------------------------- audit

CREATE TABLE tasker.task_transitions (
    task_uuid  uuid NOT NULL,
    from_state text,
    to_state   text NOT NULL,
    finish_no  integer,
    actor      text,
    reason     text,
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
) PARTITION BY RANGE (at);
COMMENT ON TABLE tasker.task_transitions IS 'Insert-only history of tasks; partitioned by the real clock.';

CREATE TABLE tasker.workflow_step_transitions (
    task_uuid  uuid NOT NULL,
    position   integer NOT NULL,
    map_index  integer NOT NULL,
    fence      integer NOT NULL,
    from_state text NOT NULL,
    to_state   text NOT NULL,
    executor   uuid,
    reason     text,
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
) PARTITION BY RANGE (at);
COMMENT ON TABLE tasker.workflow_step_transitions IS 'Insert-only history of steps; a row without it is a step that never left pending.';

CREATE TABLE tasker.finalization_attempts (
    finalization_attempt_uuid uuid NOT NULL,
    task_uuid                 uuid NOT NULL,
    processor                 text NOT NULL,
    action                    text NOT NULL CHECK (action IN ('claim', 'extend', 'release', 'finalize')),
    outcome                   text NOT NULL,
    claim_no                  integer,
    finish_no                 integer,
    duration_ms               double precision NOT NULL CHECK (duration_ms >= 0),
    held_ms                   double precision,
    at                        timestamptz NOT NULL DEFAULT clock_timestamp()
) PARTITION BY RANGE (at);
COMMENT ON TABLE tasker.finalization_attempts IS
    'Every attempt at a finalization claim, with how long the call took and, at its end, how long the claim was held: the metrics'' raw numbers.';

-- Task uuids rise with time, so a summary per block range finds a task's history without a B-tree insert per row.
CREATE INDEX task_transitions_task ON tasker.task_transitions
    USING brin (task_uuid uuid_minmax_multi_ops) WITH (pages_per_range = 16, autosummarize = on);
CREATE INDEX workflow_step_transitions_task ON tasker.workflow_step_transitions
    USING brin (task_uuid uuid_minmax_multi_ops) WITH (pages_per_range = 16, autosummarize = on);
CREATE INDEX finalization_attempts_task ON tasker.finalization_attempts
    USING brin (task_uuid uuid_minmax_multi_ops) WITH (pages_per_range = 16, autosummarize = on);

-- ------------------------------------------------------------------------------------------- who is at work

CREATE TABLE tasker.executors (
    executor            uuid PRIMARY KEY,
    kind                text NOT NULL CHECK (kind IN ('step_executor', 'task_request_processor', 'task_claimer',
                                                      'step_enqueuer', 'step_result_processor', 'task_finalizer')),
    worker              text NOT NULL,
    pid                 integer,
    queues              text[] NOT NULL DEFAULT '{}',
    registered_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    oldest_call_no      bigint NOT NULL DEFAULT 1 CHECK (oldest_call_no >= 1),
    idle                boolean NOT NULL DEFAULT false,
    stop_requested      boolean NOT NULL DEFAULT false,
    counters            jsonb NOT NULL DEFAULT '{}',
    suspected_heartbeat timestamptz,
    suspected_at        timestamptz,
    lost_at             timestamptz,
    CHECK ((suspected_heartbeat IS NULL) = (suspected_at IS NULL))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE tasker.executors IS
    'One row per incarnation. Written by register, heartbeat, idle change, stop request and the sweep, never by claims.';

CREATE TABLE tasker.workers (
    hostname      text PRIMARY KEY,
    pid           integer NOT NULL,
    pool          text NOT NULL,
    concurrency   integer NOT NULL CHECK (concurrency >= 0),
    queues        text[] NOT NULL DEFAULT '{}',
    started_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at  timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
COMMENT ON TABLE tasker.workers IS 'Celery workers that host executors.';

CREATE TABLE tasker.waiters (
    channel    text PRIMARY KEY CHECK (channel ~ '^tasker_[a-z0-9_]{1,54}$'),
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE tasker.waiters IS 'Processes that wait for tasks to finish: complete_steps tells whom to notify.';

CREATE TABLE tasker.coordinator (
    one               boolean PRIMARY KEY DEFAULT true CHECK (one),
    last_tick_at      timestamptz,
    series_started_at timestamptz,
    ticked_by         text,
    ticks             bigint NOT NULL DEFAULT 0,
    net_cursor        uuid
);
INSERT INTO tasker.coordinator DEFAULT VALUES;
COMMENT ON TABLE tasker.coordinator IS 'One row: when the last tick was, and how far the safety net has paged.';

CREATE TABLE tasker.dead_letters (
    id              bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    kind            text NOT NULL CHECK (kind IN ('step', 'message')),
    task_uuid       uuid,
    position        integer,
    map_index       integer,
    queue           text,
    reason          text NOT NULL,
    snapshot        jsonb NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    resolution      text CHECK (resolution IN ('retried', 'reset', 'resolved', 'cancelled', 'dismissed')),
    resolved_by     text,
    resolved_reason text,
    resolved_at     timestamptz,
    CHECK ((kind = 'step') = (task_uuid IS NOT NULL AND position IS NOT NULL AND map_index IS NOT NULL)),
    CHECK ((resolution IS NULL) = (resolved_at IS NULL))
);
CREATE UNIQUE INDEX dead_letters_open_step ON tasker.dead_letters (task_uuid, position, map_index)
    WHERE resolved_at IS NULL AND kind = 'step';
COMMENT ON TABLE tasker.dead_letters IS
    'Steps that ended in error and messages that could not be understood; written by whoever decides it, in that transaction.';

-- --------------------------------------------------------------------------------------------------- queues

SELECT pgmq.create(queue)
FROM unnest(ARRAY['task_requests_queue', 'orchestration_step_results', 'step_enqueue', 'task_finalization']) AS queue
WHERE queue NOT IN (SELECT queue_name FROM pgmq.list_queues());
"""  # noqa: E501 - comments that stand in the catalog are not wrapped


def upgrade() -> None:
    op.execute(DDL)


def downgrade() -> None:
    raise RuntimeError("Tasker's migrations go forward only: restore a backup to go back.")
