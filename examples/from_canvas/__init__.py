"""A Celery program with a chord, and the same as a workflow."""
