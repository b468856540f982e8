"""Things a loop can watch: raised or not, with a descriptor to wait for."""

from __future__ import annotations

import selectors
from collections.abc import Collection

from tasker.executors.wake import Raised


class AnyOf:
    """Raised when one of several is.

    Its descriptor is that of a selector (epoll, kqueue), which is readable when one of its members is.
    """

    def __init__(self, *members: Raised) -> None:
        self._members = members
        self._selector = selectors.DefaultSelector()
        for member in members:
            self._selector.register(member.fileno(), selectors.EVENT_READ)

    def is_set(self) -> bool:
        """Whether one of them is raised."""
        return any(member.is_set() for member in self._members)

    def fileno(self) -> int:
        """Readable when one of them may be raised."""
        return _fileno(self._selector)

    def close(self) -> None:
        """Free the selector; its members stay open."""
        self._selector.close()


class Readable:
    """Raised while one of some descriptors has something to read."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def watch(self, descriptors: Collection[int]) -> None:
        """Watch these from now on, and no others.

        All are registered anew: the number of one that was closed may be another file's by now.
        """
        self._selector.close()
        self._selector = selectors.DefaultSelector()
        for descriptor in descriptors:
            self._selector.register(descriptor, selectors.EVENT_READ)

    def is_set(self) -> bool:
        """Whether one can be read without waiting."""
        return bool(self._selector.select(0))

    def fileno(self) -> int:
        """Readable when one of them is."""
        return _fileno(self._selector)

    def close(self) -> None:
        """Free the selector; the descriptors stay open."""
        self._selector.close()


def _fileno(selector: selectors.BaseSelector) -> int:
    """The selector's own descriptor; every system that can fork has such a selector."""
    descriptor: int = selector.fileno()  # type: ignore[attr-defined]
    return descriptor
