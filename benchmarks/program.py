"""The other end of `benchmarks.engines.base.serve`: an engine's program, asked with deadlines, never left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import threading
from pathlib import Path
from typing import Any

import psutil

from benchmarks.engines.base import Place
from benchmarks.engines.environments import python_for
from benchmarks.engines.registry import ENGINES
from benchmarks.meters import tree

ROOT = Path(__file__).parents[1]
START_SECONDS = 180.0
STOP_SECONDS = 90.0


class EngineFailed(Exception):
    """An engine did not do what it was asked; says what, and shows the end of its logs."""


class Program:
    """One engine at one place, started. Use it in a ``with`` block.

    Args:
        engine: its name in the registry.
        place: where it runs; its folder is made.
    """

    def __init__(self, engine: str, place: Place) -> None:
        self.engine = engine
        self._folder = Path(place.folder)
        self._folder.mkdir(parents=True)
        place_file = self._folder.parent / "place.json"
        place_file.write_text(json.dumps(dataclasses.asdict(place)))
        self._log = self._folder.parent / "client.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ENGINES[engine].command(python_for(engine), place_file),
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # a Ctrl-C is for the bench, which then ends it in order
            )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, name=f"answers of {engine}", daemon=True).start()
        self._seen: dict[int, psutil.Process] = {}
        self.workers: list[int] = []
        self.shapes: list[str] = []
        self.settles = 0.0

    @property
    def pid(self) -> int:
        """The client's process."""
        return self._process.pid

    def start(self) -> None:
        """Have it start its workers."""
        started = self.ask(START_SECONDS, do="start")
        self.shapes, self.settles = started["shapes"], started.get("settles", 0)
        self.workers = self.ask(10, do="pids")["pids"]
        self._look()

    def ask(self, timeout: float, /, **command: Any) -> dict[str, Any]:
        """Send a command, and return what is answered within ``timeout`` seconds.

        :raises EngineFailed: it answers with an error, not at all, or has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=timeout)
        except (BrokenPipeError, queue.Empty) as error:
            what = "has ended" if isinstance(error, BrokenPipeError) else f"did not answer within {timeout:g} s"
            raise EngineFailed(f"{self.engine} {what}: {command}\n{self._logs()}") from None
        if not line:
            self._process.wait()
            raise EngineFailed(f"{self.engine} ended with {self._process.returncode}: {command}\n{self._logs()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineFailed(f"{self.engine}: {answer['error']}")
        self._look()
        return answer

    def stop(self) -> None:
        """Have it end its workers, and end."""
        self.ask(STOP_SECONDS, do="stop")
        self._process.wait(30)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self._look()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        # What it started leads groups of its own; normally `stop` has ended all that.
        for process in self._seen.values():
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(list(self._seen.values()), timeout=10)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _look(self) -> None:
        """Remember what it has started, so that it can be ended even when the program is gone."""
        for process in tree([self._process.pid, *self.workers]):
            if process.pid != self._process.pid:
                self._seen[process.pid] = process

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _logs(self) -> str:
        logs = [self._log, *sorted(self._folder.glob("*.log"))]
        ends = [f"-- {log.name}:\n{log.read_text(errors='replace')[-2000:].strip()}" for log in logs if log.exists()]
        return "\n".join(ends)
