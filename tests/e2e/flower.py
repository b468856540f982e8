"""A real Flower beside a cluster, and its API."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from typing import Any

from tests.e2e.harness import Cluster
from tests.waiting import wait_until


class Flower:
    """One ``celery -A tasker flower``, which answers.

    Args:
        cluster: whose broker it listens to, and which ends it.
        arguments: of its command line.
    """

    def __init__(self, cluster: Cluster, *arguments: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        address = ("--address=127.0.0.1", f"--port={port}")
        cluster.start_celery("flower", ["flower", *address, *arguments], FLOWER_UNAUTHENTICATED_API="true")
        wait_until(lambda: self.get("/api/workers") is not None, "Flower answers")

    def get(self, path: str) -> Any:
        """What the API answers; ``None`` while it does not."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def tasks(self) -> dict[str, Any]:
        """All tasks that it knows, by uuid."""
        found: dict[str, Any] = self.get("/api/tasks?limit=10000") or {}
        return found

    def wait_for(self, uuid: object, state: str) -> Any:
        """The task of that uuid, once it is in that state."""

        def found() -> Any:
            task = self.tasks().get(str(uuid))
            return task if task and task["state"] == state else None

        return wait_until(found, f"Flower shows {uuid} as {state}")

    def wait_for_worker(self, name: str) -> None:
        """It has asked the worker, and so hears of it."""
        wait_until(lambda: name in (self.get("/api/workers?refresh=true") or {}), f"Flower knows {name}")
