"""The guardian: stops the server when its last user was killed and could not.

It is a small process that does one thing: it waits for the exclusive lock on ``users.lock``, which the kernel grants
when the last process that shares it is gone. There is no polling and no process id that could go stale.

Its limits: where no guardian can run (a program that embeds Python has no interpreter to start), or where it was
killed itself and nobody has looked since, a server whose last user was killed goes on until the next process that uses
it ends.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import tasker
from tasker.database.embedded.directory import Directory
from tasker.database.embedded.locks import FileLock
from tasker.database.embedded.postmaster import Postmaster
from tasker.errors import EmbeddedServerError

_MAIN = Path(__file__).with_name("guardian_main.py")


def ensure_guardian(directory: Directory) -> None:
    """Start the guardian unless there is one. The caller shares ``users.lock``.

    A guardian that has seen the last user go holds ``users.lock`` exclusively until it ends, so one that is seen
    here, beside a shared ``users.lock``, still waits and will see the caller go, too.
    """
    lock = FileLock(directory.guardian_lock)
    try:
        if not lock.try_acquire() or not _is_interpreter(sys.executable):
            return
        packages = (str(Path(tasker.__file__).parent.parent), *filter(None, sys.path))
        with directory.log.open("ab") as log, contextlib.suppress(OSError):
            subprocess.run(
                [sys.executable, "-I", "-S", _MAIN, directory.base, str(lock.fileno())],
                cwd="/",
                env={"PYTHONPATH": os.pathsep.join(packages)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock.fileno(),),
                start_new_session=True,
                check=False,
            )
    finally:
        lock.give_up()


def last_user_gone(base: str) -> None:
    """Stop the server in ``base``. Runs in the guardian, which holds ``users.lock`` alone until it ends."""
    try:
        Postmaster(Directory(Path(base))).stop()
    except EmbeddedServerError as error:
        sys.stderr.write(f"{error}\n")


def _is_interpreter(executable: str | None) -> bool:
    return bool(executable) and Path(executable or "").name.startswith(("python", "pypy"))
