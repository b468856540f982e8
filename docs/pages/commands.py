"""The reference of the command ``tasker``, from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator

import click

from docs.pages.markdown import code, page, prose, table
from tasker.cli import main

INTRO = """
`tasker` answers on standard output; remarks and errors go to standard error. On a terminal it prints tables and live
views, else plain columns, and with `--json` JSON for programs. Exit codes: 0 done, 1 failed, 2 called wrongly.

Every command takes `--json` and `--help`. Before the command's name, `--environment NAME` (`-e`) picks the
environment of the settings, `--settings-dir DIRECTORY` the settings folder; `tasker --version` prints the release.
"""
_EVERYWHERE = {"as_json", "help"}


def make() -> str:
    """The page."""
    root = click.Context(main, info_name="tasker")
    every = list(_commands(main, root))
    index = table(
        ["command", "does"],
        [
            [f"[{code(context.command_path)}](#{context.command_path.replace(' ', '-')})", _summary(command)]
            for command, context in every
        ],
    )
    return page("Commands", INTRO, index, *(_described(command, context) for command, context in every))


def _commands(group: click.Group, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _commands(command, inner)
        else:
            yield command, inner


def _summary(command: click.Command) -> str:
    return (command.help or "").split("\n\n")[0].rstrip(".") + "."


def _described(command: click.Command, context: click.Context) -> str:
    pieces = " ".join(command.collect_usage_pieces(context))
    parts = [f"## {context.command_path}", f"```text\n{context.command_path} {pieces}\n```", prose(command.help or "")]
    options = [
        [code(", ".join(_spelling(option))), _default(option, context), option.help or ""]
        for option in command.params
        if isinstance(option, click.Option) and option.name not in _EVERYWHERE
    ]
    if options:
        parts.append(table(["option", "default", "meaning"], options))
    return "\n\n".join(parts)


def _spelling(option: click.Option) -> list[str]:
    names = sorted(option.opts, key=lambda name: (not name.startswith("--"), name))
    if option.secondary_opts:
        return ["/".join([*names, *option.secondary_opts])]
    if option.is_flag:
        return names
    return [f"{', '.join(names)} {option.make_metavar(click.Context(click.Command('')))}"]


def _default(option: click.Option, context: click.Context) -> str:
    default = option.get_default(context)
    shown = option.show_default and not option.multiple and default not in (None, "")
    if not shown:
        return ""
    if option.secondary_opts:
        return code((option.opts if default else option.secondary_opts)[0])
    return code(str(default))
