"""The graph of a workflow: whether it is one that can run, and in which order its steps stand."""

from __future__ import annotations

import graphlib
import heapq
from collections.abc import Mapping, Sequence

Graph = Mapping[str, Sequence[str]]
"""Each step's name and the names of those it depends on, in the document's order."""


def topological_order(graph: Graph) -> list[str]:
    """The steps, each after all it depends on; where that leaves a choice, in the document's order.

    Args:
        graph: every dependency must be a step of it.

    Raises:
        graphlib.CycleError: the graph has a cycle; ``find_cycle`` names it.
    """
    index = {name: position for position, name in enumerate(graph)}
    names = list(graph)
    sorter = graphlib.TopologicalSorter(graph)
    sorter.prepare()
    ready = [index[name] for name in sorter.get_ready()]
    heapq.heapify(ready)
    order: list[str] = []
    while ready:
        name = names[heapq.heappop(ready)]
        order.append(name)
        sorter.done(name)
        for freed in sorter.get_ready():
            heapq.heappush(ready, index[freed])
    return order


def find_cycle(graph: Graph) -> list[str] | None:
    """A cycle, as the path one runs along it: each step runs before the next, the last is the first again.

    Returns:
        the path, beginning with the step that stands first in the document, or ``None``.
    """
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        cycle: list[str] = list(error.args[1])[:-1]
        index = {name: position for position, name in enumerate(graph)}
        first = min(range(len(cycle)), key=lambda position: index[cycle[position]])
        return [*cycle[first:], *cycle[:first], cycle[first]]
    return None


def levels(graph: Graph) -> dict[str, int]:
    """The level of each step: 0 without dependencies, else one more than the highest it depends on.

    Raises:
        graphlib.CycleError: the graph has a cycle.
    """
    result: dict[str, int] = {}
    for name in topological_order(graph):
        result[name] = 1 + max((result[parent] for parent in graph[name]), default=-1)
    return result


def deepest_path(graph: Graph) -> list[str]:
    """The longest chain of steps that wait for one another, from its first to its last."""
    level = levels(graph)
    name = max(level, key=lambda step: level[step])
    path = [name]
    while graph[name]:
        name = max(graph[name], key=lambda step: level[step])
        path.append(name)
    return path[::-1]
