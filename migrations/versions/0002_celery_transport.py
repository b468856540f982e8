"""Tables of the Celery transport: queues by Celery's names, bindings, mailboxes and their mail, consumers.

Revision ID: 0002
Revises: 0001

Celery's task queues are PGMQ queues, made when they are declared. Remote control, replies and events are short-lived
and many, so they are rows of one unlogged table instead of two tables each. The functions are ``celery_*.sql``.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

DDL = r"""
CREATE TABLE tasker.celery_queues (
    name       text NOT NULL CHECK (name <> ''),
    priority   smallint NOT NULL DEFAULT 0 CHECK (priority IN (0, 3, 6, 9)),
    pgmq_queue text NOT NULL UNIQUE CHECK (pgmq_queue ~ '^celery_[a-z0-9_]{1,40}$'),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (name, priority)
);
COMMENT ON TABLE tasker.celery_queues IS
    'Celery''s task queues and the PGMQ queues that hold their messages: one, and one more per priority in use.';
COMMENT ON COLUMN tasker.celery_queues.priority IS 'As on Redis: 0 is served first.';
COMMENT ON COLUMN tasker.celery_queues.pgmq_queue IS
    'PGMQ allows 47 characters and folds case: names that do not fit are shortened and carry a hash.';

CREATE TABLE tasker.celery_mailboxes (
    name                text PRIMARY KEY CHECK (name <> ''),
    consumer            integer,
    expires_seconds     double precision NOT NULL CHECK (expires_seconds > 0),
    message_ttl_seconds double precision NOT NULL CHECK (message_ttl_seconds > 0),
    seen_at             timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE tasker.celery_mailboxes IS
    'Queues that live as long as their reader: remote control, replies, events, broadcasts.';
COMMENT ON COLUMN tasker.celery_mailboxes.consumer IS
    'Who reads it. While that session lives the mailbox stays, however long its process is busy.';

CREATE TABLE tasker.celery_bindings (
    exchange      text NOT NULL CHECK (exchange <> ''),
    queue         text NOT NULL CHECK (queue <> ''),
    routing_key   text NOT NULL,
    exchange_type text NOT NULL CHECK (exchange_type IN ('direct', 'topic', 'fanout')),
    pattern       text,
    PRIMARY KEY (exchange, queue, routing_key),
    CHECK ((exchange_type = 'topic') = (pattern IS NOT NULL))
);
CREATE INDEX celery_bindings_queue ON tasker.celery_bindings (queue);
COMMENT ON TABLE tasker.celery_bindings IS
    'Which exchange reaches which queue or mailbox, seen by all processes. '
    'Each binding says of which type its exchange is, so that a sender need not know it.';

CREATE SEQUENCE tasker.celery_consumer_numbers AS integer CYCLE;

CREATE TABLE tasker.celery_consumers (
    consumer    integer PRIMARY KEY,
    attached_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE tasker.celery_consumers IS
    'Sessions that read from queues. Each holds the session-level advisory lock (1413567307, consumer): '
    'when it is free, the session is gone, and what it held returns to the queues.';

CREATE UNLOGGED TABLE tasker.celery_mail (
    mail_id    bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    mailbox    text NOT NULL,
    expires_at timestamptz NOT NULL,
    message    text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX celery_mail_mailbox ON tasker.celery_mail (mailbox, mail_id);
COMMENT ON TABLE tasker.celery_mail IS
    'What lies in mailboxes. Unlogged: a crash of the server empties it, as its readers are gone then, too.';
"""


def upgrade() -> None:
    op.execute(DDL)


def downgrade() -> None:
    raise RuntimeError("Tasker's migrations go forward only: restore a backup to go back.")
