"""The graph of a workflow as a picture: a tree for terminals, Mermaid for Markdown, DOT for Graphviz."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasker.workflows.graph import Graph, levels, topological_order

FORMATS = ("tree", "mermaid", "dot")


def picture(graph: Graph, form: str, *, title: str, notes: Mapping[str, str] | None = None) -> str:
    """The graph in one of ``FORMATS``.

    Args:
        graph: steps and what they depend on; without cycles.
        form: ``tree``, ``mermaid`` or ``dot``.
        title: name of the workflow.
        notes: what to say beside a step's name.
    """
    notes = notes or {}
    match form:
        case "mermaid":
            return _mermaid(graph, title, notes)
        case "dot":
            return _dot(graph, title, notes)
        case _:
            return _tree(graph, title, notes)


def _tree(graph: Graph, title: str, notes: Mapping[str, str]) -> str:
    """Each step below the one of its parents that runs last; further parents are named beside it."""
    level = levels(graph)
    children: dict[str | None, list[str]] = {None: []}
    for name in topological_order(graph):
        parent = max(graph[name], key=lambda needed: level[needed], default=None)
        children.setdefault(parent, []).append(name)
    lines = [title]
    # A stack instead of recursion: a chain may be thousands of steps long.
    stack = [(name, "", index == 0) for index, name in enumerate(reversed(children[None]))]
    while stack:
        name, indent, last = stack.pop()
        lines.append(f"{indent}{'└── ' if last else '├── '}{_labelled(name, graph[name], notes)}")
        below = indent + ("    " if last else "│   ")
        stack += [(child, below, index == 0) for index, child in enumerate(reversed(children.get(name, [])))]
    return "\n".join(lines)


def _labelled(name: str, depends_on: Sequence[str], notes: Mapping[str, str]) -> str:
    parts = [name]
    if name in notes:
        parts.append(f"[{notes[name]}]")
    if len(depends_on) > 1:
        parts.append(f"(after {', '.join(depends_on)})")
    return " ".join(parts)


def _mermaid(graph: Graph, title: str, notes: Mapping[str, str]) -> str:
    # Prefixed, since `end` and other words mean something to Mermaid.
    lines = ["---", f"title: {title}", "---", "flowchart TD"]
    for name in graph:
        label = f"{name}<br/>{notes[name]}" if name in notes else name
        lines.append(f'    s_{name}["{_quoted(label, "#quot;")}"]')
    lines += [f"    s_{needed} --> s_{name}" for name in graph for needed in graph[name]]
    return "\n".join(lines)


def _dot(graph: Graph, title: str, notes: Mapping[str, str]) -> str:
    lines = [f'digraph "{_quoted(title)}" {{', "    rankdir=TB;", "    node [shape=box];"]
    for name in graph:
        label = f"{name}\\n{_quoted(notes[name])}" if name in notes else name
        lines.append(f'    "{name}" [label="{label}"];')
    lines += [f'    "{needed}" -> "{name}";' for name in graph for needed in graph[name]]
    return "\n".join([*lines, "}"])


def _quoted(text: str, quote: str = '\\"') -> str:
    return text.replace('"', quote)
