"""Engines for tests of the bench: one that ends tasks with wrong values, one that never answers."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

from benchmarks.engines.base import Engine, serve
from benchmarks.shapes import Shape


class Liar(Engine):
    """Says that every task came to nothing."""

    name = "liar"

    def start(self) -> None:
        self.place.runs.touch()

    def stop(self) -> None:
        pass

    def submit(self, shape: Shape, numbers: Sequence[int]) -> Sequence[Any]:
        return numbers

    def wait(self, handles: Sequence[Any], timeout: float) -> Sequence[int]:
        return [-1 for _ in handles]

    def pids(self) -> Sequence[int]:
        return []


class Mute(Liar):
    """Never ends a task."""

    name = "mute"

    def wait(self, handles: Sequence[Any], timeout: float) -> Sequence[int]:
        threading.Event().wait()
        return []


if __name__ == "__main__":
    serve({"liar": Liar, "mute": Mute}[sys.argv[2]])
