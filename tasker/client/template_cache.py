"""Templates that a client remembers, so that creating a task costs one round trip.

A remembered template may be out of date; creation compares its digest in the same statement and asks again if so. So
the cache saves time and never decides anything.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from tasker.client.requests import TemplateKey
from tasker.config.sections import CacheSettings
from tasker.database.records import TemplateRecord


class TemplateCache:
    """The most recently used templates.

    Args:
        settings: how many, and for how long; ``None`` keeps nothing.
    """

    def __init__(self, settings: CacheSettings | None) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._kept: OrderedDict[TemplateKey, tuple[float, TemplateRecord]] = OrderedDict()

    def get(self, key: TemplateKey) -> TemplateRecord | None:
        """The template, if it is remembered and not too old."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                return None
            until, template = kept
            if time.monotonic() >= until:
                del self._kept[key]
                return None
            self._kept.move_to_end(key)
            return template

    def put(self, key: TemplateKey, template: TemplateRecord) -> None:
        """Remember ``template`` under ``key``."""
        if self._settings is None:
            return
        with self._lock:
            self._kept[key] = (time.monotonic() + self._settings.ttl_seconds, template)
            self._kept.move_to_end(key)
            while len(self._kept) > self._settings.max_entries:
                self._kept.popitem(last=False)

    def forget(self, key: TemplateKey) -> None:
        """Remember it no longer."""
        with self._lock:
            self._kept.pop(key, None)
