"""Redis for tests: where it is, and how to leave nothing there."""

from __future__ import annotations

import gc
import os

import pytest
from celery import Celery
from redis import ConnectionPool, Redis
from redis.exceptions import RedisError

REDIS_URL = os.environ.get("TASKER_TEST_REDIS_URL", "redis://127.0.0.1:6379/9")


def redis_or_skip() -> Redis:
    """A client; skips where no Redis answers (in CI that fails)."""
    redis = Redis.from_url(REDIS_URL)
    try:
        redis.ping()
    except RedisError as error:
        pytest.skip(f"no Redis answers at {REDIS_URL} ({error}); TASKER_TEST_REDIS_URL names another")
    return redis


def forget(redis: Redis, prefix: str) -> None:
    """Delete all keys that begin with ``prefix``, and close the client."""
    keys = list(redis.scan_iter(f"{prefix}*"))
    if keys:
        redis.delete(*keys)
    redis.close()


def close(app: Celery) -> None:
    """Close an app and all that it has open: ``Celery.close`` leaves that to whoever collects the garbage."""
    app.amqp.producer_pool.force_close_all()
    app.pool.force_close_all()
    if app.backend.as_uri().startswith("redis"):
        consumer = app.backend.result_consumer
        consumer.stop()
        consumer._pubsub = None  # results that are forgotten later would connect again, to unsubscribe
        app.backend.client.close()
        app.backend.client.connection_pool.disconnect()
    app.close()


def close_leftovers() -> None:
    """Close what nobody else can: a closed Redis channel of kombu's connects again, to give back messages."""
    for pool in [each for each in gc.get_objects() if type(each) is ConnectionPool]:
        pool.disconnect()
