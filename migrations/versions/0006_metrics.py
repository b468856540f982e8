"""Totals for metrics: what was counted from the history so far, and what executors that ended had counted.

Revision ID: 0006
Revises: 0005

Counters of metrics must never fall, and history does: partitions are dropped, executors go. So each row of the history
is counted once, soon after it was written, into totals that stay. See docs/explanation/decisions/0019.

The indexes find the latest rows of the history by their time. Rows come in the order of time, so a summary per range
of pages is enough, which costs an insert nothing.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

DDL = r"""
CREATE INDEX task_transitions_at ON tasker.task_transitions
    USING brin (at) WITH (pages_per_range = 16, autosummarize = on);
CREATE INDEX workflow_step_transitions_at ON tasker.workflow_step_transitions
    USING brin (at) WITH (pages_per_range = 16, autosummarize = on);
CREATE INDEX finalization_attempts_at ON tasker.finalization_attempts
    USING brin (at) WITH (pages_per_range = 16, autosummarize = on);

CREATE TABLE tasker.metric_totals (
    metric text NOT NULL,
    labels text[] NOT NULL DEFAULT '{}',
    value  double precision NOT NULL,
    PRIMARY KEY (metric, labels)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE tasker.metric_totals IS
    'What was counted from the history, ever; the last label of a histogram''s buckets is their upper bound.';

CREATE TABLE tasker.metric_progress (
    one           boolean PRIMARY KEY DEFAULT true CHECK (one),
    counted_until timestamptz NOT NULL DEFAULT clock_timestamp(),
    waiting       jsonb NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);
INSERT INTO tasker.metric_progress DEFAULT VALUES;
COMMENT ON TABLE tasker.metric_progress IS
    'One row: history before counted_until is in metric_totals. waiting: transactions with earlier rows, since when.';

CREATE TABLE tasker.ended_executors (
    kind     text NOT NULL,
    counters jsonb NOT NULL
);
COMMENT ON TABLE tasker.ended_executors IS
    'What executors had counted that are gone: written as they go, folded into a row per kind from time to time.';
"""


def upgrade() -> None:
    op.execute(DDL)


def downgrade() -> None:
    raise RuntimeError("Tasker's migrations go forward only: restore a backup to go back.")
