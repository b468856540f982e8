"""What keeps an engine working: limits, admission, circuits, health, pools, operational state.

Revision ID: 0005
Revises: 0004

Nothing here is a counter that must be kept right. What runs under a limit is a row whose step still runs under the
fence it names: a row of a step that ended in any other way counts for nothing, so no limit can leak. Steps that wait
for a limit or a circuit are timers, as all delays are.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

DDL = r"""
-- ------------------------------------------------------------------------------------ namespaces and workflows

ALTER TABLE tasker.namespaces
    ADD COLUMN paused_by text,
    ADD COLUMN paused_reason text,
    ADD COLUMN max_concurrency integer CHECK (max_concurrency >= 1),
    ADD COLUMN rate_count integer CHECK (rate_count >= 1),
    ADD COLUMN rate_seconds double precision CHECK (rate_seconds > 0),
    ADD COLUMN has_high boolean NOT NULL DEFAULT false,
    ADD COLUMN has_low boolean NOT NULL DEFAULT false,
    ADD COLUMN admission text NOT NULL DEFAULT 'open' CHECK (admission IN ('open', 'soft', 'hard')),
    ADD COLUMN admission_reason text,
    ADD COLUMN admission_room integer CHECK (admission_room >= 0),
    ADD COLUMN admission_retry_seconds double precision CHECK (admission_retry_seconds > 0),
    ADD COLUMN admission_at timestamptz,
    ADD CHECK ((rate_count IS NULL) = (rate_seconds IS NULL));
COMMENT ON COLUMN tasker.namespaces.max_concurrency IS 'Most steps of its queue that run at once; none: no limit.';
COMMENT ON COLUMN tasker.namespaces.rate_count IS 'Most steps of its queue that start within rate_seconds; none: no limit.';
COMMENT ON COLUMN tasker.namespaces.has_high IS
    'Whether the queue of urgent steps exists: it is made when the first of them is sent. has_low: the same of the patient ones.';
COMMENT ON COLUMN tasker.namespaces.admission IS
    'What becomes of new tasks: open (they start at once), soft (they wait), hard (they are refused). Measured every few seconds.';
COMMENT ON COLUMN tasker.namespaces.admission_room IS 'While it is not open: how many waiting tasks may start until the next measure.';

ALTER TABLE tasker.named_tasks
    ADD COLUMN concurrency_path text[],
    ADD COLUMN key_max_concurrency integer CHECK (key_max_concurrency >= 1),
    ADD COLUMN key_rate_count integer CHECK (key_rate_count >= 1),
    ADD COLUMN key_rate_seconds double precision CHECK (key_rate_seconds > 0),
    ADD COLUMN lifecycle jsonb,
    ADD CHECK ((key_rate_count IS NULL) = (key_rate_seconds IS NULL)),
    ADD CHECK (concurrency_path IS NOT NULL OR (key_max_concurrency IS NULL AND key_rate_count IS NULL));
COMMENT ON COLUMN tasker.named_tasks.concurrency_path IS
    'Where in the context the key is found whose tasks share a limit (a tenant, a customer).';
COMMENT ON COLUMN tasker.named_tasks.lifecycle IS 'How long a task may take and wait, and what is done then.';

ALTER TABLE tasker.named_steps
    ADD COLUMN lifecycle jsonb,
    ADD COLUMN publishes_events jsonb;
COMMENT ON COLUMN tasker.named_steps.publishes_events IS 'Domain events of its outcomes; none for most steps.';

ALTER TABLE tasker.tasks ADD COLUMN concurrency_key text;
COMMENT ON COLUMN tasker.tasks.concurrency_key IS
    'With the namespace, whose limit its steps share. Taken from the context when the task was created.';

-- Waiting tasks of one workflow, for admission while some namespaces are closed.
CREATE INDEX tasks_due_by_workflow ON tasker.tasks (named_task_id, priority DESC, task_uuid)
    WHERE admitted_at IS NULL AND finished_at IS NULL AND NOT scheduled;

-- -------------------------------------------------------------------------------------------------- limits

ALTER TABLE tasker.step_timers
    -- No guarantee is lost: the next line adds it again, with two kinds more.
    -- squawk-ignore ban-drop-constraint
    DROP CONSTRAINT step_timers_kind_check,
    ADD CONSTRAINT step_timers_kind_check CHECK (kind IN ('retry', 'deadline', 'circuit', 'limit')),
    ADD COLUMN key text,
    ADD CONSTRAINT step_timers_key_check CHECK (kind NOT IN ('circuit', 'limit') OR key IS NOT NULL);
CREATE INDEX step_timers_parked ON tasker.step_timers (key, set_at) WHERE key IS NOT NULL;
COMMENT ON COLUMN tasker.step_timers.key IS 'What a parked step waits for: a circuit''s name, or a limit''s key.';

CREATE TABLE tasker.limit_holders (
    task_uuid uuid NOT NULL,
    position  integer NOT NULL,
    map_index integer NOT NULL DEFAULT 0,
    limit_key text NOT NULL,
    fence     integer NOT NULL,
    PRIMARY KEY (task_uuid, position, map_index, limit_key)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX limit_holders_key ON tasker.limit_holders (limit_key);
COMMENT ON TABLE tasker.limit_holders IS
    'Steps that run under a limit. One counts only while its step is in_progress with this fence, so nothing can leak.';

CREATE TABLE tasker.rate_limits (
    limit_key text PRIMARY KEY,
    next_at   timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE tasker.rate_limits IS
    'When the next start under a rate would be due if all came evenly (the theoretical arrival time of GCRA).';

-- ------------------------------------------------------------------------------------------------ circuits

CREATE TABLE tasker.circuit_breakers (
    name              text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 200),
    state             text NOT NULL DEFAULT 'closed' CHECK (state IN ('closed', 'open', 'half_open')),
    forced            boolean NOT NULL DEFAULT false,
    failures          integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    successes         integer NOT NULL DEFAULT 0 CHECK (successes >= 0),
    failure_threshold integer NOT NULL DEFAULT 5 CHECK (failure_threshold >= 1),
    success_threshold integer NOT NULL DEFAULT 2 CHECK (success_threshold >= 1),
    timeout_seconds   double precision NOT NULL DEFAULT 30 CHECK (timeout_seconds > 0),
    opened_at         timestamptz,
    retry_at          timestamptz,
    probe_until       timestamptz,
    transitions       bigint NOT NULL DEFAULT 0,
    reason            text,
    changed_by        text,
    changed_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((state = 'closed') = (opened_at IS NULL)),
    CHECK ((state = 'open' AND NOT forced) = (retry_at IS NOT NULL)),
    CHECK ((state = 'half_open') = (probe_until IS NOT NULL)),
    CHECK (NOT forced OR state = 'open')
) WITH (fillfactor = 50);
COMMENT ON TABLE tasker.circuit_breakers IS
    'External systems, and whether they are called: one state for all processes. Steps that need an open one are parked.';
COMMENT ON COLUMN tasker.circuit_breakers.forced IS 'An operator opened it: it stays open until an operator closes it.';
COMMENT ON COLUMN tasker.circuit_breakers.probe_until IS
    'Half open: until then the one call that was let through is waited for; then another is.';

CREATE TABLE tasker.circuit_transitions (
    name       text NOT NULL,
    from_state text NOT NULL,
    to_state   text NOT NULL,
    reason     text,
    actor      text,
    open_seconds double precision,
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX circuit_transitions_at ON tasker.circuit_transitions (at);
COMMENT ON TABLE tasker.circuit_transitions IS 'History of circuits, with how long one was not closed when it closes.';

-- ---------------------------------------------------------------------------------------- health and pools

ALTER TABLE tasker.executors
    ADD COLUMN polled_at timestamptz,
    ADD COLUMN worked_at timestamptz,
    ADD COLUMN health text NOT NULL DEFAULT 'starting'
        CHECK (health IN ('starting', 'healthy', 'degraded', 'unhealthy', 'stopping')),
    -- Rewrites a table of a few rows, one for each executor.
    -- squawk-ignore adding-field-with-default
    ADD COLUMN health_since timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD COLUMN health_reason text,
    ADD COLUMN trouble text,
    ADD COLUMN requested boolean NOT NULL DEFAULT false,
    ADD COLUMN counted_at timestamptz,
    ADD COLUMN counted_items bigint NOT NULL DEFAULT 0,
    ADD COLUMN counted_busy_ms bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN tasker.executors.polled_at IS 'When it last asked its queues and got an answer, as its heartbeat says.';
COMMENT ON COLUMN tasker.executors.worked_at IS 'When it last found something to do, or still did it.';
COMMENT ON COLUMN tasker.executors.trouble IS 'What it says itself is wrong with it; none while it works well.';
COMMENT ON COLUMN tasker.executors.requested IS
    'The coordinator asked for it, beyond what workers host by themselves: it goes when it is too many.';
COMMENT ON COLUMN tasker.executors.counted_at IS
    'When a tick last added what it had done to its pools; counted_items, counted_busy_ms: how much that was in all.';

ALTER TABLE tasker.workers
    ADD COLUMN executor_slots integer NOT NULL DEFAULT 0 CHECK (executor_slots >= 0),
    ADD COLUMN most_slots integer NOT NULL DEFAULT 0 CHECK (most_slots >= 0),
    ADD COLUMN scaling text NOT NULL DEFAULT 'fixed' CHECK (scaling IN ('fixed', 'resized', 'requested')),
    ADD COLUMN drained boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN tasker.workers.executor_slots IS 'How many executors it hosts by itself; most_slots: how many it may host.';
COMMENT ON COLUMN tasker.workers.scaling IS
    'How it comes to host more: resized (told how many), requested (sent a task for each), fixed (not at all).';

CREATE TABLE tasker.executor_health_transitions (
    executor    uuid NOT NULL,
    kind        text NOT NULL,
    worker      text NOT NULL,
    from_health text NOT NULL,
    to_health   text NOT NULL,
    reason      text,
    at          timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX executor_health_transitions_at ON tasker.executor_health_transitions (at);
COMMENT ON TABLE tasker.executor_health_transitions IS 'History of the health of executors.';

CREATE TABLE tasker.executor_pools (
    kind         text NOT NULL CHECK (kind IN ('step_executor', 'task_request_processor', 'task_claimer',
                                               'step_enqueuer', 'step_result_processor', 'task_finalizer')),
    queue        text NOT NULL DEFAULT '',
    target       integer NOT NULL CHECK (target >= 0),
    state        jsonb NOT NULL DEFAULT '{}',
    items        bigint NOT NULL DEFAULT 0,
    busy_ms      bigint NOT NULL DEFAULT 0,
    executor_ms  bigint NOT NULL DEFAULT 0,
    changed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    evaluated_at timestamptz,
    PRIMARY KEY (kind, queue)
) WITH (fillfactor = 50);
COMMENT ON TABLE tasker.executor_pools IS
    'How many executors of a kind there shall be (of step executors, for each queue). Written by the coordinator''s ticks.';
COMMENT ON COLUMN tasker.executor_pools.state IS 'What a scaling policy remembers from one tick to the next.';
COMMENT ON COLUMN tasker.executor_pools.items IS
    'What its executors have done, ever; busy_ms: how long they worked, of the executor_ms that they lived.';

CREATE TABLE tasker.scaling_decisions (
    id          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind        text NOT NULL,
    queue       text NOT NULL DEFAULT '',
    direction   text NOT NULL CHECK (direction IN ('up', 'down', 'hold')),
    from_target integer NOT NULL,
    to_target   integer NOT NULL,
    reason      text NOT NULL,
    detail      text,
    measures    jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX scaling_decisions_at ON tasker.scaling_decisions (at);
COMMENT ON TABLE tasker.scaling_decisions IS 'Every change of a pool''s target, with its reason and what was measured.';

CREATE TABLE tasker.operational_state (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    state      text NOT NULL DEFAULT 'startup'
        CHECK (state IN ('startup', 'normal', 'graceful_shutdown', 'emergency', 'stopped')),
    reason     text,
    changed_by text,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO tasker.operational_state DEFAULT VALUES;
COMMENT ON TABLE tasker.operational_state IS 'One row: what the whole system is doing, for health and alerts.';

CREATE TABLE tasker.operational_state_transitions (
    from_state text NOT NULL,
    to_state   text NOT NULL,
    reason     text,
    actor      text,
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX operational_state_transitions_at ON tasker.operational_state_transitions (at);
COMMENT ON TABLE tasker.operational_state_transitions IS 'History of the operational state.';

-- Dead letters that are open, the newest first: the list that people look at.
CREATE INDEX dead_letters_open ON tasker.dead_letters (id DESC) WHERE resolved_at IS NULL;
"""  # noqa: E501 - comments that stand in the catalog are not wrapped


def upgrade() -> None:
    op.execute(DDL)


def downgrade() -> None:
    raise RuntimeError("Tasker's migrations go forward only: restore a backup to go back.")
