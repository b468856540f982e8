"""The Celery program as it always was; it knows nothing of Tasker.

celery -A from_canvas.tasks worker
"""

from __future__ import annotations

import zlib
from typing import Any

from celery import Celery

app = Celery("sales")
app.config_from_object("from_canvas.celery_settings")


@app.task
def sales_of(day: str, region: str) -> dict[str, Any]:
    """What a region sold on a day, in cents."""
    return {"region": region, "cents": zlib.crc32(f"{day}/{region}".encode()) % 1_000_000}


@app.task
def add_up(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The sum of all regions, and the best one."""
    best = max(parts, key=lambda part: part["cents"])
    return {"cents": sum(part["cents"] for part in parts), "best": best["region"]}


@app.task
def publish(total: dict[str, Any], channel: str) -> str:
    """Tell people, by some channel."""
    return f"{channel}: {total['cents'] / 100:,.2f}, most of it in the {total['best']}"
