"""Celery settings of your own, over the defaults that Tasker derives from its settings. Copy this file and change it.

It is found in the working directory or on sys.path; CELERY_CONFIG_MODULE names another module. Without it everything
works, too. All settings: https://docs.celeryq.dev/en/stable/userguide/configuration.html
"""

# Where Celery's messages travel. The default is the database itself (tasker-pgmq://…), so that PostgreSQL is the only
# server there is; steps never pass through here. CELERY_BROKER_URL in the environment wins over this line.
# broker_url = "redis://localhost:6379/0"

# Where results of plain Celery tasks are kept, if anywhere. The same PostgreSQL will do.
# result_backend = "db+postgresql+psycopg://user:password@localhost/shop"

# Modules with plain Celery tasks, which steps may name as handlers ("celery:shop.tasks.charge_card").
# include = ["shop.tasks"]

# Show every task in Flower, as `celery -A tasker worker -E` does.
worker_send_task_events = True
task_send_sent_event = True
