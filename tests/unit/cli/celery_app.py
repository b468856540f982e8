"""A Celery application that is configured by its environment alone."""

from __future__ import annotations

from celery import Celery

app = Celery("somebody", set_as_current=False)
