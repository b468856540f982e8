"""What several commands take and use: JSON values, names of workflows, a client."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasker.errors import InvalidRequest, UnknownTemplate

if TYPE_CHECKING:
    from tasker.client.tasker import Tasker


@contextmanager
def open_client() -> Iterator[Tasker]:
    """A client on the database that the settings name."""
    from tasker.client.tasker import Tasker

    with Tasker(source_system="tasker command") as client:
        yield client


def json_value(text: str, what: str) -> Any:
    """The JSON value in ``text``, in the file after ``@``, or on standard input for ``-``.

    Args:
        text: as given.
        what: it is; errors name it.

    Raises:
        InvalidRequest: it is no JSON, or the file cannot be read.
    """
    if text == "-":
        text = sys.stdin.read()
    elif text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except OSError as error:
            raise InvalidRequest(f"{what}: {error}", field=what) from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"{what} is not JSON: {error}", hint="""quote it for the shell: '{"order_id": 42}'""", field=what
        ) from error


def workflow_parts(text: str) -> tuple[str, str, str | None]:
    """Namespace, name and version in ``namespace/name[:version]``; no version is ``None``.

    Raises:
        UnknownTemplate: it has another form.
    """
    namespace, slash, rest = text.partition("/")
    name, _, version = rest.partition(":")
    if not slash or not namespace or not name:
        raise UnknownTemplate(
            f"{text!r} names no workflow",
            hint="write namespace/name or namespace/name:version; `tasker template list` shows what is registered",
        )
    return namespace, name, version or None
