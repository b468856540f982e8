"""How far the sweep for stuck tasks has come, and which workflows it concerns.

Revision ID: 0007
Revises: 0006

The sweep reads a page of open tasks in each round and goes on from there in the next, whoever makes it.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

DDL = r"""
ALTER TABLE tasker.coordinator ADD COLUMN lifecycle_cursor uuid;
COMMENT ON COLUMN tasker.coordinator.lifecycle_cursor IS
    'The last task that the sweep for stuck ones has looked at; none: it begins anew.';
-- Few workflows have a lifecycle: without any, a round of the sweep is one probe.
CREATE INDEX named_tasks_with_lifecycle ON tasker.named_tasks (named_task_id) WHERE lifecycle IS NOT NULL;
"""


def upgrade() -> None:
    op.execute(DDL)


def downgrade() -> None:
    raise RuntimeError("Tasker's migrations go forward only: restore a backup to go back.")
