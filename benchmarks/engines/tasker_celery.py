"""Celery's settings of hosted workers: none, so that they are as an installed Tasker has them.

The `celeryconfig.py` of this repository, an example that switches task events on, would be found otherwise. Events have
a figure of their own (`benchmarks.figures.step_events`); Celery beside Tasker has none either.
"""
