"""The graphs that the figures are about, what their handlers compute, and how a run is proved right.

Every engine runs the same work. A task carries its number ``n``; a root returns ``{"value": n}``, any other step the
sum of its parents' values plus its own position, modulo 2**31. Each run of a handler leaves one record in a file, so
that "each handler ran exactly once" is counted and not believed (`Runs`).
"""

from __future__ import annotations

import functools
import os
import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MODULUS = 2**31


@dataclass(frozen=True)
class Shape:
    """A graph: step names in topological order, each with the names of its parents."""

    name: str
    parents: Mapping[str, Sequence[str]] = field(hash=False)

    @functools.cached_property
    def positions(self) -> dict[str, int]:
        """Step name to its place in topological order, from 0."""
        return {name: position for position, name in enumerate(self.parents)}

    @property
    def steps(self) -> int:
        """Steps per task."""
        return len(self.parents)

    @functools.cached_property
    def last(self) -> str:
        """The one step that nothing depends on: its value is the task's."""
        inner = {parent for parents in self.parents.values() for parent in parents}
        (last,) = [name for name in self.parents if name not in inner]
        return last

    def value(self, step: str, n: int, parents: Iterable[int]) -> int:
        """What a handler of ``step`` returns in task ``n``, given its parents' values."""
        return (sum(parents) + self.positions[step]) % MODULUS if self.parents[step] else n % MODULUS

    def expected(self, n: int) -> int:
        """The value of the last step of task ``n``."""
        values: dict[str, int] = {}
        for step, parents in self.parents.items():
            values[step] = self.value(step, n, (values[parent] for parent in parents))
        return values[self.last]


def fan(name: str, width: int) -> Shape:
    """1 -> width -> 1."""
    middle = [f"m{index:04}" for index in range(width)]
    return Shape(name, {"first": [], **{step: ["first"] for step in middle}, "last": middle})


SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("plain", {"only": []}),  # no graph at all: what a job queue does
        Shape("linear4", {"one": [], "two": ["one"], "three": ["two"], "four": ["three"]}),
        Shape("diamond", {"start": [], "left": ["start"], "right": ["start"], "join": ["left", "right"]}),
        Shape(
            "tree8",
            {
                "root": [],
                "left": ["root"],
                "right": ["root"],
                "leaf1": ["left"],
                "leaf2": ["left"],
                "leaf3": ["right"],
                "leaf4": ["right"],
                "join": ["leaf1", "leaf2", "leaf3", "leaf4"],
            },
        ),
        Shape(
            "mixed7",
            {
                "init": [],
                "left": ["init"],
                "right": ["init"],
                "validate": ["left", "right"],
                "transform": ["left"],
                "analyze": ["right"],
                "finalize": ["validate", "transform", "analyze"],
            },
        ),
        fan("fan100", 100),
        fan("wide2000", 2000),
    )
}


@functools.cache
def shape_of(name: str) -> Shape:
    """The shape of this name: one of `SHAPES`, or ``wide<number>``, any other fan of that width."""
    if name not in SHAPES and (width := re.fullmatch(r"wide(\d+)", name)):
        return fan(name, int(width[1]))
    return SHAPES[name]


class WrongResult(Exception):
    """A run that did not do what it was asked: its figure means nothing."""


class Runs:
    """Which handlers ran, as records that many processes append to one file.

    A record is task number and step position (unsigned, 4 bytes each), written by one ``write`` in append mode, which
    POSIX makes atomic; it costs about a microsecond, the same for every engine.
    """

    RECORD = struct.Struct("<II")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: tuple[int, int] | None = None
        self._read = 0
        self._verified: set[int] = set()

    def add(self, n: int, position: int) -> None:
        """Note one run of a handler."""
        if self._file is None or self._file[0] != os.getpid():
            self._file = os.getpid(), os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(self._file[1], self.RECORD.pack(n, position))

    def verify(self, shape: Shape, numbers: Iterable[int]) -> None:
        """Each step of each of these tasks ran exactly once since the last time, and none of those verified then.

        :raises WrongResult: otherwise; says how many are missing or repeated.
        """
        wanted = set(numbers)
        with self.path.open("rb") as file:
            file.seek(self._read)
            fresh = file.read()
        self._read += len(fresh)
        seen = Counter(run for run in self.RECORD.iter_unpack(fresh) if run[0] in wanted or run[0] in self._verified)
        late = sum(count for (n, _), count in seen.items() if n not in wanted)
        missing = len(wanted) * shape.steps - sum(1 for n, _ in seen if n in wanted)
        repeated = late + sum(1 for (n, _), count in seen.items() if n in wanted and count > 1)
        if missing or repeated:
            raise WrongResult(f"{shape.name}: {missing} handler runs are missing, {repeated} steps ran more than once")
        self._verified |= wanted
