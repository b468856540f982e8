"""Priorities of mail: queues that delete themselves are read in the order of urgency, as task queues are.

Revision ID: 0009
Revises: 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

DDL = r"""
ALTER TABLE tasker.celery_mail ADD COLUMN priority smallint NOT NULL DEFAULT 0;
-- The table holds what nobody has read yet: the lock is over in a moment.
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX tasker.celery_mail_mailbox;
CREATE INDEX celery_mail_mailbox ON tasker.celery_mail (mailbox, priority, mail_id);
"""


def upgrade() -> None:
    op.execute(DDL)


def downgrade() -> None:
    raise RuntimeError("Tasker's migrations go forward only: restore a backup to go back.")
