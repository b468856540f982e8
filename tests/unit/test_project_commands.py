"""Each command that the documentation shows exists: make targets, `tasker …`, the files it names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parents[2]
PROMISED_TARGETS = ("demo", "test", "lint", "format", "build", "coverage", "migrate")


def documents() -> list[Path]:
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def shown_commands(text: str) -> Iterator[str]:
    """Lines of fenced blocks without a language or of a shell's, and code spans, that begin like a command of ours."""
    for language, block in re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        if language in ("", "sh", "bash", "shell", "console", "text"):
            yield from (line.removeprefix("$ ").strip() for line in block.replace("\\\n", " ").splitlines())
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", prose)


def commands(program: str) -> list[tuple[str, list[str]]]:
    found = []
    for path in documents():
        for line in shown_commands(path.read_text()):
            command = re.sub(r"^(\w+=\S+ )*(\.venv/bin/)?", "", line.split("  #")[0].split(" # ")[0])
            if command.startswith(f"{program} "):
                words = re.split(r"\s(?:\||&&|;|>|<)\s", command)[0]
                found.append((f"{path.relative_to(ROOT)}: {command.strip()}", shlex.split(words.replace("…", " "))[1:]))
    return found


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_make_offers_what_is_promised() -> None:
    assert set(PROMISED_TARGETS) <= make_targets()


def test_every_make_target_is_described() -> None:
    described = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert make_targets() == described


def test_every_make_command_shown_exists() -> None:
    targets = make_targets()
    unknown = [where for where, words in commands("make") for word in words if "=" not in word and word not in targets]
    assert unknown == []
    assert commands("make"), "no documentation shows a make command: is it still read?"


@pytest.mark.parametrize(
    ("where", "words"), commands("tasker"), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_tasker_command_shown_exists(where: str, words: list[str]) -> None:
    from tasker.cli import main

    command: click.Command = main
    context = click.Context(command, info_name="tasker")
    for word in words:
        if isinstance(command, click.Group) and not word.startswith("-"):
            alternatives = word.split("|")
            for name in alternatives:
                assert command.get_command(context, name) is not None, f"{where}: tasker has no command {name!r}"
            command = command.get_command(context, alternatives[0]) or command
        elif word.startswith("--"):
            options = {option for parameter in command.params for option in parameter.opts}
            assert word.split("=")[0] in options | {"--help"}, f"{where}: no option {word!r}"


def test_every_file_linked_by_the_documentation_exists() -> None:
    links = [(path, link) for path in documents() for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())]
    missing = [
        f"{path.relative_to(ROOT)}: {link}"
        for path, link in links
        if not re.match(r"[a-z]+:", link) and not (path.parent / link).exists()
    ]
    assert missing == []
