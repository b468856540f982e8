"""Schedules: workflows that are started again and again, by the clock.

Revision ID: 0004
Revises: 0003

When a slot is due, and which follows, is computed outside (cron expressions and time zones are a library's work). What
the table guards is that each slot is fired once: whoever fires names the slot that he believes to be next, and the row
moves on with the tasks, in one transaction.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

DDL = r"""
CREATE TABLE tasker.schedules (
    name           text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_.-]{0,127}$'),
    task           jsonb NOT NULL,
    namespace      text NOT NULL GENERATED ALWAYS AS (task->>'namespace') STORED,
    workflow       text NOT NULL GENERATED ALWAYS AS (task->>'name') STORED,
    cron           text,
    every_seconds  integer CHECK (every_seconds >= 1),
    starts_at      timestamptz,
    time_zone      text NOT NULL,
    catch_up       text NOT NULL CHECK (catch_up IN ('last', 'all', 'none')),
    next_due_at    timestamptz NOT NULL,
    look_at        timestamptz NOT NULL,
    paused_at      timestamptz,
    last_due_at    timestamptz,
    last_task_uuid uuid,
    fired          bigint NOT NULL DEFAULT 0 CHECK (fired >= 0),
    failure        text,
    failed_at      timestamptz,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_by     text,
    changed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_by     text,
    CHECK ((cron IS NULL) <> (every_seconds IS NULL)),
    CHECK (last_due_at < next_due_at),
    CHECK (look_at >= next_due_at),
    CHECK ((failure IS NULL) = (failed_at IS NULL))
) WITH (fillfactor = 70);
COMMENT ON TABLE tasker.schedules IS
    'Workflows that are started by the clock. A slot is one moment at which one is due.';
COMMENT ON COLUMN tasker.schedules.task IS
    'The request that each slot makes of tasker.create_tasks, without what only a slot knows.';
COMMENT ON COLUMN tasker.schedules.next_due_at IS
    'The slot to fire next: it moves on with the tasks of those before it.';
COMMENT ON COLUMN tasker.schedules.look_at IS
    'next_due_at, or later after a failure, so that nobody tries without end.';
COMMENT ON COLUMN tasker.schedules.catch_up IS
    'Of slots that were missed while nobody ran: the last one is fired, all of them are, or none.';

CREATE INDEX schedules_to_look_at ON tasker.schedules (look_at) WHERE paused_at IS NULL;
"""


def upgrade() -> None:
    op.execute(DDL)


def downgrade() -> None:
    raise RuntimeError("Tasker's migrations go forward only: restore a backup to go back.")
