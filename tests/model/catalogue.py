"""All models by name."""

from __future__ import annotations

from types import ModuleType

from tests.model import (
    bands,
    batches,
    children,
    circuits,
    deferring,
    finalizing,
    growing,
    leaving,
    limits,
    receiving,
    schedules,
)

MODELS: dict[str, ModuleType] = {
    "batches": batches,
    "leaving": leaving,
    "deferring": deferring,
    "receiving": receiving,
    "bands": bands,
    "limits": limits,
    "circuits": circuits,
    "schedules": schedules,
    "growing": growing,
    "children": children,
    "finalizing": finalizing,
}

LARGE_STATES: dict[str, tuple[int, ...]] = {
    "batches": (94_979, 166_303, 37_759),
    "leaving": (5_082,),
    "deferring": (173_701, 34_846),
    "receiving": (204, 144),
    "bands": (4_410,),
    "limits": (37_909,),
    "circuits": (18_062,),
    "schedules": (13_485, 17_288),
    "growing": (778,),
    "children": (4_132,),
    "finalizing": (61_160, 13_380),
}
"""How many states the large forms have; the long tests see to it that this is true."""
