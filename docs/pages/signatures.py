"""Signatures and docstrings of public objects as Markdown."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

from docs.pages.markdown import WIDTH, from_docstring, prose, table

_SECTIONS = ("Args", "Attributes", "Returns", "Raises")
_FULL_NAMES = re.compile(r"\b(?:\w+\.)+(?=[A-Za-z_])")


def signature(name: str, function: Callable[..., Any], *, options: type | None = None) -> str:
    """A code block with the call of ``function``, one line or one argument a line.

    Args:
        name: what it is called on this page.
        function: the function.
        options: the TypedDict that stands behind ``**options``, whose keys are shown instead.
    """
    found = inspect.signature(function)
    arguments: list[str] = []
    star = False
    for parameter in found.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            star = True
            arguments.append("*")
        if parameter.kind is parameter.VAR_KEYWORD and options is not None:
            if not star:
                arguments.append("*")
            arguments += [f"{key}: {_plain(hint)} = …" for key, hint in options.__annotations__.items()]
        else:
            star = star or parameter.kind is parameter.VAR_POSITIONAL
            arguments.append(_argument(parameter))
    returns = "" if found.return_annotation in (found.empty, "None") else f" -> {_plain(found.return_annotation)}"
    prefix = "async " if inspect.iscoroutinefunction(function) else ""
    line = f"{prefix}{name}({', '.join(arguments)}){returns}"
    if len(line) > WIDTH:
        body = textwrap.indent(",\n".join(arguments), "    ")
        line = f"{prefix}{name}(\n{body},\n){returns}"
    return f"```text\n{line}\n```"


def _argument(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = f"{stars}{parameter.name}"
    if parameter.annotation is not parameter.empty:
        text += f": {_plain(parameter.annotation)}"
    if parameter.default is not parameter.empty:
        default = "…" if str(parameter.default) in ("unset", "unchanged") else repr(parameter.default)
        text += f" = {default}" if parameter.annotation is not parameter.empty else f"={default}"
    return text


def _plain(annotation: Any) -> str:
    """An annotation as people write it, without modules."""
    text = getattr(annotation, "__forward_arg__", None) or annotation
    if not isinstance(text, str):
        text = getattr(text, "__name__", None) if isinstance(text, type) else str(text)
    text = re.sub(r"ForwardRef\('(.+?)'(?:, module=.+?)?\)", r"\1", str(text))
    return _FULL_NAMES.sub("", text).replace("NoneType", "None")


def described(documented: Any) -> str:
    """The docstring: its prose, then what it says of arguments, results and errors, as a table."""
    text = inspect.getdoc(documented) or ""
    head, _ = _split(text)
    return "\n\n".join(part for part in (prose(from_docstring_paragraphs(head)), arguments(documented)) if part)


def arguments(documented: Any) -> str:
    """What the docstring says of arguments, results and errors, as a table; empty if it says nothing."""
    _, sections = _split(inspect.getdoc(documented) or "")
    rows = [
        [_label(section, name), from_docstring(meaning)]
        for section, entries in sections.items()
        for name, meaning in entries
    ]
    return table(["", ""], rows) if rows else ""


def attributes(documented: type) -> str:
    """A table of a class's attributes with their types."""
    _, sections = _split(inspect.getdoc(documented) or "")
    hints = {}
    for base in reversed(documented.__mro__):
        hints |= getattr(base, "__annotations__", {})
    rows = [
        [f"`{name}`", f"`{_plain(hints[name])}`" if name in hints else "", from_docstring(meaning)]
        for name, meaning in sections.get("Attributes", [])
    ]
    said = {name for name, _ in sections.get("Attributes", [])}
    rest = [f"`{name}`" for name in hints if not name.startswith("_") and name not in said]
    text = table(["attribute", "type", "meaning"], rows)
    if not hints:
        text = table(["attribute", "meaning"], [[row[0], row[2]] for row in rows])
    return f"{text}\n\nAlso {', '.join(rest)}." if rest else text


def lead(documented: Any) -> str:
    """The docstring without its sections."""
    return prose(from_docstring_paragraphs(_split(inspect.getdoc(documented) or "")[0]))


def from_docstring_paragraphs(text: str) -> str:
    """Paragraphs of a docstring as Markdown."""
    return "\n\n".join(from_docstring(each) for each in re.split(r"\n\s*\n", text))


def _label(section: str, name: str) -> str:
    match section:
        case "Returns":
            return "returns"
        case "Raises":
            return f"raises `{name}`"
        case _:
            return f"`{name}`"


def _split(text: str) -> tuple[str, dict[str, list[tuple[str, str]]]]:
    """The prose of a docstring, and its sections as names with meanings."""
    parts = re.split(rf"^({'|'.join(_SECTIONS)}):\n", text, flags=re.MULTILINE)
    sections: dict[str, list[tuple[str, str]]] = {}
    for section, body in zip(parts[1::2], parts[2::2], strict=True):
        body = textwrap.dedent(body.rstrip())
        if section == "Returns":
            sections[section] = [("", body)]
        else:
            found = re.findall(r"^(\w[\w., ]*):\s*(.*(?:\n[ \t]+.*|\n(?=\n))*)", body, re.MULTILINE)
            sections[section] = [(name, meaning) for name, meaning in found]
    return parts[0].strip(), sections
