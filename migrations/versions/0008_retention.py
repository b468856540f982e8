"""Retention: how far pruning has walked, and how to find what belongs to a task that is pruned.

Revision ID: 0008
Revises: 0007

Finished tasks need no index of their own: their uuids begin with the time, so the primary key is walked from the oldest
on, and the coordinator's row remembers where. Only tables whose key does not begin with the task get an index.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

DDL = r"""
ALTER TABLE tasker.coordinator ADD COLUMN retention jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN tasker.coordinator.retention IS
    'How far the ticks have pruned: each goes on where the one before stopped, and begins anew after the end.';

-- Identities go with their task. Uuids rise, so this index grows at its end.
CREATE INDEX task_identities_task ON tasker.task_identities (task_uuid);
CREATE INDEX dead_letters_task ON tasker.dead_letters (task_uuid) WHERE task_uuid IS NOT NULL;
CREATE INDEX dead_letters_resolved ON tasker.dead_letters (resolved_at) WHERE resolved_at IS NOT NULL;

-- They were only inserted into; now old rows go, and vacuum shall not wait for a fifth of a large table.
ALTER TABLE tasker.task_contexts SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE tasker.task_identities SET (autovacuum_vacuum_scale_factor = 0.02);
"""


def upgrade() -> None:
    op.execute(DDL)


def downgrade() -> None:
    raise RuntimeError("Tasker's migrations go forward only: restore a backup to go back.")
