"""File locks of the embedded server: who uses it, who starts it, whether any process of it lives.

All are ``flock`` locks. The kernel ties such a lock to an *open file*, which forked children share, and drops it
when the last process that holds the file open is gone, by whatever death. So nothing here can go stale, and no list
of process ids has to be kept true. Three rules follow:

- Lock files are never removed: a removed file's lock would be invisible to whoever opens the path anew.
- A lock that children may inherit is given up by *closing* the file, never by unlocking it: unlocking would take it
  from parent and siblings too.
- A lock that children must not keep is unlocked before it is closed, and closed in every forked child.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

from tasker.errors import EmbeddedServerError

# Locks that a thread of this process holds for a moment: a child forked in that moment inherits the open file.
_not_for_children: set[int] = set()


def _close_inherited() -> None:
    for descriptor in _not_for_children:
        with contextlib.suppress(OSError):
            os.close(descriptor)  # closed, not unlocked: the lock is the parent's
    _not_for_children.clear()


os.register_at_fork(after_in_child=_close_inherited)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


class FileLock:
    """One open lock file.

    Args:
        path: the lock file; created if missing.
        inherited: whether forked children share the lock and keep it alive.
    """

    def __init__(self, path: Path, *, inherited: bool = False) -> None:
        self.path = path
        self.inherited = inherited
        self._descriptor: int | None = None
        self._identity: tuple[int, int] | None = None

    def try_acquire(self, *, shared: bool = False) -> bool:
        """Take the lock if that is possible at once; say whether it was.

        Raises:
            OSError: the file cannot be opened.
        """
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            if not self.inherited:
                _not_for_children.add(self._descriptor)
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            self._close()
            return False
        self._identity = _identity(os.fstat(self._descriptor))
        return True

    def acquire(self, *, shared: bool = False, timeout_seconds: float, purpose: str) -> None:
        """Take the lock, waiting at most ``timeout_seconds``; ``purpose`` goes into the error's text.

        Raises:
            EmbeddedServerError: another process kept it for longer.
            OSError: the file cannot be opened.
        """
        deadline = time.monotonic() + timeout_seconds
        while not self.try_acquire(shared=shared):
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"waited {timeout_seconds:g} s for another process to release {self.path} ({purpose})",
                    hint=f"see who holds it: fuser -v '{self.path}'",
                )
            # Waiters differ, so that twenty of them do not come back at the same moment.
            time.sleep(random.uniform(0.005, 0.02))

    def fileno(self) -> int:
        """The open lock file, for a child process that shall hold the lock too."""
        assert self._descriptor is not None, "the lock is not held"
        return self._descriptor

    def is_held(self) -> bool:
        """Whether this object holds the lock on the file that is at ``path`` now.

        False after the file was removed, or after somebody closed all files of this process (as daemons do).
        """
        try:
            return self._is_open() and _identity(os.stat(self.path)) == self._identity
        except FileNotFoundError:
            return False

    def give_up(self) -> None:
        """Close the file; the lock lives on in processes that share it."""
        if self._is_open():
            self._close()
        self._descriptor = None

    def release(self) -> None:
        """Unlock and close, for all processes that share the open file."""
        if self._descriptor is not None and self._is_open():
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._close()
        self._descriptor = None

    def _is_open(self) -> bool:
        # Daemons close every file of their process; the number may be somebody else's file by now.
        if self._descriptor is None:
            return False
        try:
            return _identity(os.fstat(self._descriptor)) == self._identity
        except OSError:
            return False

    def _close(self) -> None:
        if self._descriptor is not None:
            _not_for_children.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None


@contextlib.contextmanager
def exclusive(path: Path, *, timeout_seconds: float, purpose: str) -> Iterator[None]:
    """Hold ``path`` alone for the length of a ``with`` block, against threads and processes alike.

    Raises:
        EmbeddedServerError: another process kept it for longer than ``timeout_seconds``.
    """
    lock = FileLock(path)
    lock.acquire(timeout_seconds=timeout_seconds, purpose=purpose)
    try:
        yield
    finally:
        lock.release()


def is_free(path: Path) -> bool:
    """Whether no process holds ``path`` exclusively. Makes no file: the folder may be about to be removed."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that ask at once do not see each other
    except BlockingIOError:
        return False
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return True
    finally:
        os.close(descriptor)
