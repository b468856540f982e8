"""The client's memory of templates: bounded in number and age, and nothing at all where caches are off."""

from __future__ import annotations

import datetime as dt

import pytest

from tasker.client import template_cache
from tasker.client.requests import TemplateKey
from tasker.client.template_cache import TemplateCache
from tasker.config.sections import CacheSettings
from tasker.database.records import TemplateRecord


def key(name: str) -> TemplateKey:
    return TemplateKey("shop", name, None)


def template(name: str) -> TemplateRecord:
    return TemplateRecord(
        1, "shop", name, "1.0.0", "digest", None, 1024, 1, False, False, dt.datetime.now(dt.UTC), None
    )


def test_the_least_recently_used_template_goes_first() -> None:
    cache = TemplateCache(CacheSettings(max_entries=2))
    for name in ("a", "b"):
        cache.put(key(name), template(name))
    assert cache.get(key("a")) is not None
    cache.put(key("c"), template("c"))
    assert [cache.get(key(name)) is not None for name in ("a", "b", "c")] == [True, False, True]


def test_a_template_is_asked_for_again_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(template_cache.time, "monotonic", lambda: now)
    cache = TemplateCache(CacheSettings(ttl_seconds=60.0))
    cache.put(key("a"), template("a"))
    now += 59
    assert cache.get(key("a")) is not None
    now += 1
    assert cache.get(key("a")) is None


def test_a_forgotten_template_is_gone_and_forgetting_twice_is_fine() -> None:
    cache = TemplateCache(CacheSettings())
    cache.put(key("a"), template("a"))
    cache.forget(key("a"))
    cache.forget(key("a"))
    assert cache.get(key("a")) is None


def test_without_settings_nothing_is_kept() -> None:
    cache = TemplateCache(None)
    cache.put(key("a"), template("a"))
    assert cache.get(key("a")) is None
