"""Which calls an executor holds, beside the oldest of them.

Revision ID: 0003
Revises: 0002

A call whose answer was lost may commit after its repeat found nothing. Its receipt is nobody's, but no older than the
oldest call held, for as long as one long step runs. So the heartbeat names all it holds. A process of an earlier
release leaves both empty, and is judged by its oldest call, as before.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

DDL = r"""
ALTER TABLE tasker.executors ADD COLUMN next_call_no bigint, ADD COLUMN held_calls bigint[];
COMMENT ON COLUMN tasker.executors.held_calls IS
    'Of the calls below next_call_no, those with an unknown outcome or with steps it still has: others are nobody''s.';
"""


def upgrade() -> None:
    op.execute(DDL)


def downgrade() -> None:
    raise RuntimeError("Tasker's migrations go forward only: restore a backup to go back.")
