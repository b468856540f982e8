"""Prefect 3: a server of its own, and background tasks; ``python -m benchmarks.engines.prefect <place.json>``.

Only small sizes of ``linear4``: it is made for few and long runs.

A task of the shape is a background task (``delay``) that calls a task of Prefect for each step; two task workers
(`prefect.task_worker.serve`) take them. This is Prefect's way with the least between a client and the work ("Deploy a
web app powered by background tasks"); a deployed flow starts a process, or asks a work pool, for each run.

Chosen as its documents and its settings' descriptions say:

* *Self-hosted*: one server, on a free port of its own, with its database in SQLite, as shipped and as recommended for
  a single server. (On PostgreSQL, where it wants the extension pg_trgm, which the bench's own server does not have, it
  is about as fast.)
* The same document's ``PREFECT_RESULTS_PERSIST_BY_DEFAULT``: results are kept, in files of a folder that workers and
  client share; each step is durable by that.
* A task worker's ``limit`` of 10 runs at the same time, as shipped.
* No page for browsers, no analytics, no logs sent to the server; logs are limited to warnings.
* The client waits by the future's ``result``, which is told by events from the server.

``pids`` holds the server, too, without which nothing runs.
"""

from __future__ import annotations

import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from benchmarks.engines.base import Engine, Place, serve
from benchmarks.engines.processes import READY, Workers, deadline, runs_here
from benchmarks.shapes import SHAPES, Shape


class Prefect(Engine):
    """A server and task workers."""

    name = "prefect"
    shapes = ("linear4",)

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._workers = Workers(place)

    def start(self) -> None:
        """Start the server, which makes its schema, and the workers; have them run one task."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        home = os.path.join(self.place.folder, "prefect")
        environment = {
            "PREFECT_HOME": home,
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_LOCAL_STORAGE_PATH": os.path.join(home, "results"),
            "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "PREFECT_LOGGING_TO_API_ENABLED": "false",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        # For the client, too, whose Prefect reads them when it is first imported.
        os.environ.update(environment)
        self._workers.start_python(
            "server",
            "prefect",
            *("server", "start", "--host", "127.0.0.1", "--port", str(port)),
        )
        self._workers.until(lambda: _answers(f"http://127.0.0.1:{port}/api/health"), "Prefect's server", 150)
        for number in range(self.place.workers):
            self._workers.start_python(f"worker-{number}", __spec__.name, "worker")
        self._workers.all_ready("Prefect's workers")
        self._graph = graph_task()
        self.wait(self.submit(SHAPES["linear4"], [0]), 60)

    def stop(self) -> None:
        """End the workers and the server."""
        self._workers.stop()

    def submit(self, shape: Shape, numbers: Sequence[int]) -> Sequence[Any]:
        """One ``delay`` each: there is nothing for many at once."""
        return [self._graph.delay(shape.name, n) for n in numbers]

    def wait(self, handles: Sequence[Any], timeout: float) -> Sequence[int]:
        """By the future's ``result``."""
        with deadline(timeout):
            return [handle.result(timeout=timeout)["value"] for handle in handles]

    def pids(self) -> Sequence[int]:
        """The server and the workers."""
        return self._workers.pids


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def graph_task() -> Any:
    """The background task, the same in client and workers; imports Prefect, once its settings are known."""
    from prefect import task

    @task(name="step")
    def step(shape_name: str, name: str, n: int, parents: list[dict[str, int]]) -> dict[str, int]:
        shape = SHAPES[shape_name]
        value = shape.value(name, n, (parent["value"] for parent in parents))
        runs_here().add(n, shape.positions[name])
        return {"value": value}

    @task(name="graph")
    def graph(shape_name: str, n: int) -> dict[str, int]:
        shape = SHAPES[shape_name]
        results: dict[str, dict[str, int]] = {}
        for name, parents in shape.parents.items():
            results[name] = step(shape_name, name, n, [results[parent] for parent in parents])
        return results[shape.last]

    return graph


def worker() -> None:
    """A worker process; its library handles SIGTERM."""
    from prefect.task_worker import serve as serve_tasks

    graph = graph_task()
    print(READY.decode(), flush=True)
    serve_tasks(graph)


if __name__ == "__main__":
    worker() if sys.argv[1] == "worker" else serve(Prefect)
