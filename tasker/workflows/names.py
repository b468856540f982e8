"""Names that templates may use: what becomes part of queue names, table rows and metric labels."""

from __future__ import annotations

import re

MAX_NAMESPACE_LENGTH = 33
"""PGMQ allows 47 characters for a queue: ``{namespace}_queue`` and its bands must fit, with room for their tables."""

MAX_NAME_LENGTH = 63

RESERVED_NAMESPACES = ("orchestration", "task_requests", "task_finalization")
RESERVED_PREFIXES = ("celery_", "pgmq_")

_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
_VERSION = re.compile(r"(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})")


def check_identifier(name: str) -> str:
    """``name``, if it may name a workflow or a step.

    Raises:
        ValueError: what is wrong with it, and a name that would do.
    """
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(f"must have at most {MAX_NAME_LENGTH} characters, not {len(name)}")
    if _IDENTIFIER.fullmatch(name) is None:
        raise ValueError(
            f"must be lower-case letters, digits and underscores, a letter first, not {name!r}{_suggest(name)}"
        )
    return name


def check_namespace(name: str) -> str:
    """``name``, if it may name a namespace.

    Raises:
        ValueError: what is wrong with it.
    """
    if len(name) > MAX_NAMESPACE_LENGTH:
        raise ValueError(f"must have at most {MAX_NAMESPACE_LENGTH} characters, not {len(name)}: it names a queue")
    check_identifier(name)
    if name in RESERVED_NAMESPACES or name.startswith(RESERVED_PREFIXES):
        raise ValueError(f"{name!r} is reserved for Tasker's own queues: choose another namespace")
    return name


def check_version(version: str) -> str:
    """``version``, if it is three numbers with points.

    Raises:
        ValueError: what is wrong with it.
    """
    if _VERSION.fullmatch(version) is None:
        raise ValueError(f"must be three numbers with points, such as 1.0.0, not {version[:60]!r}")
    return version


def version_key(version: str) -> tuple[int, ...]:
    """What orders versions by their numbers: 1.10.0 after 1.9.0."""
    return tuple(int(part) for part in version.split("."))


def _suggest(name: str) -> str:
    candidate = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")
    return f"; {candidate!r} would do" if _IDENTIFIER.fullmatch(candidate) else ""
