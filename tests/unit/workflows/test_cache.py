from __future__ import annotations

import itertools

import pytest

from tasker.workflows.cache import ExpiringCache


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_entry_is_made_again_once_it_is_too_old() -> None:
    clock, numbers = Clock(), itertools.count()
    cache: ExpiringCache[str, int] = ExpiringCache(ttl_seconds=10, max_entries=5, monotonic=clock)
    assert [cache.get("a", lambda: next(numbers)) for _ in range(3)] == [0, 0, 0]
    clock.now = 10
    assert cache.get("a", lambda: next(numbers)) == 1


def test_the_least_recently_used_entry_goes_first() -> None:
    cache: ExpiringCache[str, str] = ExpiringCache(ttl_seconds=10, max_entries=2)
    for key in ("a", "b", "a", "c"):
        cache.get(key, lambda key=key: key)  # type: ignore[misc]
    assert len(cache) == 2
    assert cache.get("a", lambda: "made anew") == "a"
    assert cache.get("b", lambda: "made anew") == "made anew"


def test_no_entries_means_no_cache() -> None:
    numbers = itertools.count()
    cache: ExpiringCache[str, int] = ExpiringCache(ttl_seconds=10, max_entries=0)
    assert [cache.get("a", lambda: next(numbers)) for _ in range(2)] == [0, 1]


def test_what_could_not_be_made_is_not_kept() -> None:
    cache: ExpiringCache[str, int] = ExpiringCache(ttl_seconds=10, max_entries=5)

    def fail() -> int:
        raise ValueError("not yet")

    with pytest.raises(ValueError, match="not yet"):
        cache.get("a", fail)
    assert cache.get("a", lambda: 1) == 1


def test_clearing_forgets_everything() -> None:
    cache: ExpiringCache[str, int] = ExpiringCache(ttl_seconds=10, max_entries=5)
    cache.get("a", lambda: 1)
    cache.clear()
    assert cache.get("a", lambda: 2) == 2
